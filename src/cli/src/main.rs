//! `zen5turbo`: see the library.

fn main() -> std::process::ExitCode {
    zen5turbo_cli::run_command()
}
