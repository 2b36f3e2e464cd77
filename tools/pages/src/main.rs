//! `walkeep-pages DIR`: writes the man pages and shell completions of both programs below DIR, as below `/usr/share`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use walkeep_chunkstore::console::print;

/// Writes the man pages and shell completions of walkeep and walkeep-restore.
#[derive(Debug, Parser)]
#[command(name = "walkeep-pages", version)]
struct Cli {
    /// Where to: laid out as below /usr/share, so that /usr/local/share installs them.
    directory: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    for path in walkeep_pages::write(&cli.directory)? {
        print(&format!("{}\n", path.display()));
    }
    Ok(())
}
