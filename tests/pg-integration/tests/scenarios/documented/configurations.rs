//! What pages show of `walkeep.toml`: the program takes it.

use walkeep_pg_integration::documents::Page;
use walkeep_pg_integration::user::{TestUser, write_file};
use walkeep_pg_integration::{Output, Scratch, binaries};

/// The exit code of a configuration that cannot be used.
const CONFIGURATION: i32 = 3;

/// How `walkeep list` ends with a configuration: without a repository, in any case.
fn ends_with(scratch: &Scratch, text: &str) -> Output {
    let file = scratch.path().join("walkeep.toml");
    // Where the repository is a bucket, nobody is asked.
    let repository =
        format!("[repository]\npath = \"{}/none\"\n[state]\ndir = \"{0}/state\"\n", scratch.path().display());
    write_file(&file, format!("{text}\n{repository}"));
    let mut command = TestUser::get().command(binaries::path("walkeep"));
    Output::of(command.arg("--config").arg(&file).arg("list"))
}

#[test]
fn every_configuration_is_accepted() {
    let scratch = Scratch::new("toml");
    let mut seen = 0;
    for page in Page::all() {
        for block in page.blocks.iter().filter(|block| block.language == "toml") {
            let output = ends_with(&scratch, &block.text);
            assert!(output.code != Some(CONFIGURATION), "{}:{}\n{output}", page.name, block.line);
            output.assert_says("does not exist");
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
    ends_with(&scratch, "[schedule]\nbase_backups = \"@daily\"\n").expect_code(CONFIGURATION);
}
