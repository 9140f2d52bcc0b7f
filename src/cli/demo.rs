//! `wxgate demo`: everything in one process, and one URL to open.

use std::{net::SocketAddr, process::ExitCode};

use super::{print_stderr, print_stdout, signals};
use crate::demo::Demo;

/// Runs the demo until it is told to stop.
pub fn run(listen: SocketAddr) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_stderr(&format!("wxgate: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match Demo::bind(listen).await {
            Ok(demo) => {
                let status = demo.status().unwrap_or_default();
                print_stdout(&format!(
                    "Open {} in any browser.\n\n\
                     You are visiting a small shop that knows nothing of WeChat. wxgate stands in front of\n\
                     it, and an emulated WeChat answers for the real one. Its own page, where you can become\n\
                     somebody else or make it fail: http://{}/\n\n\
                     What an operator sees: {status}\n\n\
                     Ctrl-C ends the demo.",
                    demo.url(),
                    demo.wechat(),
                ));
                demo.serve(signals::stop()).await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                print_stderr(&format!("wxgate: {error}"));
                ExitCode::FAILURE
            }
        }
    })
}
