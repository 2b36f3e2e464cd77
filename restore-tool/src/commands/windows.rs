//! `windows`: the times that can be restored.

use anyhow::Result;
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::console;

use crate::cli::ListArgs;
use crate::repository::Place;

/// Prints the windows of every branch.
pub fn windows(args: &ListArgs) -> Result<()> {
    let place = Place::find(&args.repository)?;
    let repository = place.open()?;
    let catalogue = Catalogue::load(&repository, place.cluster.as_deref())?;
    let windows = catalogue.windows(&catalogue.archived_wal(&repository)?)?;
    if args.output.json {
        console::print_json(&windows);
    } else {
        console::print(&windows.to_string());
    }
    Ok(())
}
