//! `walkeep-restore`.

fn main() -> std::process::ExitCode {
    walkeep_chunkstore::console::ensure_home();
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    walkeep_restore::run(&arguments).into()
}
