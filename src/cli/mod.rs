//! The commands, their arguments and their exit codes.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use crate::{
    clock,
    config::{Config, Diagnostic, Diagnostics},
    server::{DESCRIPTOR_REMEDY, DescriptorShortage},
};

mod check;
mod demo;
mod emulator;
mod explain;
mod generate;
mod keygen;
mod probe;
mod revoke;
mod serve;
mod signals;

/// Exit codes from sysexits.h, which service managers understand.
const EX_USAGE: u8 = 64;
const EX_CONFIG: u8 = 78;

/// An authentication gateway in front of WeChat H5 sites.
#[derive(Parser)]
#[command(
    name = "wxgate",
    version,
    about,
    after_help = "Without a command, `wxgate` serves.\n\nExample:\n  wxgate demo                    try it: no account, no configuration\n  wxgate check --config my.toml  what is wrong with a configuration\n  wxgate serve --config my.toml  the gateway"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Args)]
struct ConfigArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "config.toml", global = true)]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway until SIGTERM; SIGHUP reloads.
    #[command(after_help = "Example:\n  wxgate serve --config /etc/wxgate/config.toml")]
    Serve,
    /// Reads the configuration and says everything that is wrong with it.
    #[command(
        after_help = "Example:\n  wxgate check --config /etc/wxgate/config.toml\n  wxgate check --online          and asks WeChat, the store, the sites, DNS and the clock\n\nExit code: 0 good, 78 not."
    )]
    Check {
        /// Also ask whether WeChat takes the credentials, whether the store and every
        /// upstream answer, whether the clock is right, and say which callback domain must stand in
        /// the console. WeChat is asked for the account's stable token, without a refresh (a website
        /// account with a code that does not exist): tokens that others hold stay good.
        #[arg(long)]
        online: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says which site, route and account a URL falls to and what the site will see; no network.
    #[command(
        after_help = "Example:\n  wxgate explain https://h5.example.com/member/orders\n  wxgate explain --method POST https://h5.example.com/api/cart"
    )]
    Explain {
        /// The method of the request.
        #[arg(long, value_name = "M", default_value = "GET")]
        method: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The whole URL, as a visitor types it.
        url: String,
    },
    /// Runs the gateway, an emulated WeChat and a sample site together.
    #[command(after_help = "Example:\n  wxgate demo\n  wxgate demo --listen 127.0.0.1:9000")]
    Demo {
        /// Where the gateway listens.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Runs the emulated WeChat alone, for anybody's tests.
    #[command(
        after_help = "Example:\n  wxgate emulator --users users.toml\n  curl -d '{\"at\":\"access_token\",\"errcode\":40163,\"times\":1}' http://127.0.0.1:9100/_emulator/faults"
    )]
    Emulator {
        /// Where it listens.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
        listen: SocketAddr,
        /// Who can log in: a TOML file of `[[user]]` tables.
        #[arg(long, value_name = "FILE")]
        users: Option<PathBuf>,
        /// Turn browsers other than WeChat's away, as WeChat does.
        #[arg(long)]
        require_wechat: bool,
    },
    /// Ends sessions on every replica, through the store.
    #[command(
        after_help = "Example:\n  wxgate revoke --session 0123456789abcdef0123456789abcdef\n  wxgate revoke --account main --openid oABC\n  wxgate revoke --account main\n  wxgate revoke --all\n\nExit code: 0 done, 1 the store or the gateway could not be reached, 64 usage, 78 configuration."
    )]
    Revoke {
        #[command(flatten)]
        whom: revoke::RevokeArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Attacks the public address as a stranger would, and says what got through; reads only.
    #[command(
        after_help = "Example:\n  wxgate probe https://h5.example.com/member/\n  wxgate probe --echo /static/headers.php --upstream 10.0.0.5:8000 https://h5.example.com/member/\n\nExit code: 0 nothing got through, 1 something did, 64 usage, 69 nobody answers."
    )]
    Probe {
        #[command(flatten)]
        target: probe::ProbeArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes man pages and shell completions, for a package.
    #[command(hide = true)]
    Generate {
        /// Where.
        folder: PathBuf,
    },
    /// Prints a fresh session key, ready to paste.
    #[command(after_help = "Example:\n  wxgate keygen > /etc/wxgate/session.env")]
    Keygen {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command of this process and reports how it went.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help) if matches!(help.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let text = help.render();
            let coloured = std::io::stdout().is_terminal();
            print_stdout(&if coloured { text.ansi().to_string() } else { text.to_string() });
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            print_stderr(&usage.render().to_string());
            return ExitCode::from(EX_USAGE);
        }
    };
    // The only cryptography library; a second one in the tree would make this a choice.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    run_command(cli.command.unwrap_or(Command::Serve), &cli.config.config)
}

fn run_command(command: Command, file: &Path) -> ExitCode {
    match command {
        Command::Serve => serve::serve(file),
        Command::Check { online, json } => {
            let form = match json {
                true => check::OutputFormat::Json,
                false if std::io::stdout().is_terminal() => check::OutputFormat::Coloured,
                false => check::OutputFormat::Plain,
            };
            print_and_exit(check::check(file, form, online), EX_CONFIG)
        }
        Command::Explain { method, json, url } => {
            let question = explain::ExplainRequest { method: &method, url: &url };
            match explain::explain(file, question, json) {
                explain::Outcome::Answer(text) => print_and_exit((text, true), 0),
                explain::Outcome::Configuration(text) => print_and_exit((text, false), EX_CONFIG),
                explain::Outcome::Usage(text) => {
                    print_stderr(&text);
                    ExitCode::from(EX_USAGE)
                }
            }
        }
        Command::Demo { listen } => demo::run(listen),
        Command::Emulator { listen, users, require_wechat } => {
            emulator::run(listen, users.as_deref(), require_wechat)
        }
        Command::Revoke { whom, json } => revoke::revoke(file, whom, json),
        Command::Probe { target, json } => probe::probe(&target, json),
        Command::Generate { folder } => generate::generate(&folder),
        Command::Keygen { json } => print_and_exit(keygen::keygen(clock::system(), json), 1),
    }
}

/// Prints what a command has to say, and takes what it says of itself for the exit code.
fn print_and_exit((text, good): (String, bool), bad: u8) -> ExitCode {
    print_stdout(&text);
    if good { ExitCode::SUCCESS } else { ExitCode::from(bad) }
}

/// Writes for whoever asked. A closed pipe is their affair.
fn print_stdout(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

/// Writes for whoever looks after us.
fn print_stderr(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
}

/// Adds a warning to a configuration whose limits need more file descriptors than are granted, and
/// returns what is held instead.
fn check_descriptors(config: &mut Config, granted: u64) -> Option<DescriptorShortage> {
    let shortage = DescriptorShortage::find(&config.server, granted)?;
    let warning = Diagnostic::warning(None, shortage.to_string()).help(DESCRIPTOR_REMEDY);
    config.warnings.push(warning);
    Some(shortage)
}

/// Says what is wrong with the configuration.
fn report_config_errors(diagnostics: &Diagnostics) -> ExitCode {
    let colour = std::io::stderr().is_terminal();
    print_stderr(&diagnostics.render(colour));
    ExitCode::from(EX_CONFIG)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::serialized::assert_golden;

    fn describe(command: &clap::Command, lines: &mut Vec<String>) {
        let name = command.get_name();
        let hidden = if command.is_hide_set() { " (hidden)" } else { "" };
        lines.push(format!("{name}{hidden}"));
        for argument in command.get_arguments() {
            let option = match (argument.get_long(), argument.get_short()) {
                (Some(long), None) => format!("--{long}"),
                (Some(long), Some(short)) => format!("--{long} -{short}"),
                (None, Some(short)) => format!("-{short}"),
                (None, None) => format!("<{}>", argument.get_id()),
            };
            let mut parts = vec![name.to_owned(), option];
            if argument.get_action().takes_values() {
                let names = argument.get_value_names().unwrap_or_default();
                parts.extend(names.iter().map(ToString::to_string));
            }
            for default in argument.get_default_values() {
                parts.push(format!("[default {}]", default.to_string_lossy()));
            }
            if let Some(variable) = argument.get_env() {
                parts.push(format!("[env {}]", variable.to_string_lossy()));
            }
            if argument.is_required_set() {
                parts.push("[required]".to_owned());
            }
            if argument.is_global_set() {
                parts.push("[global]".to_owned());
            }
            lines.push(parts.join(" "));
        }
        for inner in command.get_subcommands() {
            describe(inner, lines);
        }
    }

    #[test]
    fn serialized_commands() {
        let mut lines = Vec::new();
        describe(&Cli::command(), &mut lines);
        assert_golden("commands.txt", &lines);
    }

    #[test]
    fn serialized_exit_codes() {
        assert_eq!((EX_USAGE, EX_CONFIG), (64, 78));
    }
}
