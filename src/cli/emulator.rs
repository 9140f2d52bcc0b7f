//! `wxgate emulator`: a WeChat of one's own.

use std::{net::SocketAddr, path::Path, process::ExitCode};

use super::{EX_CONFIG, print_stderr, print_stdout, signals};
use crate::{
    emulator::{Emulator, Settings, users_from_toml},
    error_chain,
};

/// Runs the emulated WeChat until it is told to stop.
pub fn run(listen: SocketAddr, users: Option<&Path>, require_wechat: bool) -> ExitCode {
    let mut settings = Settings { require_wechat, ..Settings::new(listen) };
    if let Some(path) = users {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        match read
            .and_then(|text| users_from_toml(&text).map_err(|error| error_chain::line(&error)))
        {
            Ok(users) => settings.users = users,
            Err(error) => {
                print_stderr(&format!("{}: {error}", path.display()));
                return ExitCode::from(EX_CONFIG);
            }
        }
    }
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(serve(settings)),
        Err(error) => {
            print_stderr(&format!("wxgate: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> ExitCode {
    let listen = settings.listen;
    let emulator = match Emulator::bind(settings).await {
        Ok(emulator) => emulator,
        Err(error) => {
            print_stderr(&format!("wxgate: cannot listen on {listen}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let address = emulator.addr().unwrap_or(listen);
    print_stdout(&format!(
        "The emulated WeChat is at http://{address}/\n\n\
         Point an account of your configuration at it:\n\n    \
         authorize_url = \"http://{address}\"\n    \
         api_urls = [\"http://{address}\"]\n\n\
         Faults: curl -d '{{\"at\":\"access_token\",\"errcode\":40163,\"times\":1}}' http://{address}/_emulator/faults"
    ));
    emulator.serve(signals::stop()).await;
    ExitCode::SUCCESS
}
