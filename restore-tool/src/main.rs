//! `walkeep-restore`.

fn main() -> std::process::ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    walkeep_restore::run(&arguments).into()
}
