//! What was generated, read by the programs that users read it with.
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Everything, written by the program into a directory of its own.
fn written() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory can be made");
    run(Command::new(env!("CARGO_BIN_EXE_walkeep-pages")).arg(directory.path()));
    directory
}

/// Runs to success.
fn run(command: &mut Command) -> Output {
    let output =
        command.output().unwrap_or_else(|e| panic!("unable to run {command:?}: {e}; scripts/packages installs it"));
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    output
}

fn files(directory: PathBuf) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).expect("it was written").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Every subcommand of every program, as words: `["walkeep", "init"]`.
fn subcommands() -> Vec<(String, String)> {
    let pairs = walkeep_pages::programs().into_iter().flat_map(|program| {
        let name = program.get_name().to_owned();
        program.get_subcommands().map(move |sub| (name.clone(), sub.get_name().to_owned())).collect::<Vec<_>>()
    });
    pairs.collect()
}

#[test]
fn every_command_has_a_page_that_says_how_it_ends() {
    let directory = written();
    let mut pages: Vec<String> = files(directory.path().join("man/man1"))
        .iter()
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let mut expected = vec!["walkeep".to_owned(), "walkeep-restore".to_owned()];
    expected.extend(subcommands().iter().map(|(program, sub)| format!("{program}-{sub}")));
    expected.sort();
    pages.sort();
    assert_eq!(pages, expected);
    assert!(expected.len() > 15, "{expected:?}");

    let page = |name: &str| fs::read_to_string(directory.path().join(format!("man/man1/{name}.1"))).expect("a page");
    assert!(page("walkeep-restore-fetch-wal").contains("126"));
    assert!(!page("walkeep-archive-push").contains("\n10\n"));
    assert!(page("walkeep-backup").contains("\\-\\-config"), "what all subcommands share is missing");
    assert!(page("walkeep-restore").contains("\\-\\-target\\-time"));
}

#[test]
fn man_finds_no_fault_in_a_page() {
    let directory = written();
    for page in files(directory.path().join("man/man1")) {
        let lint = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).output();
        let lint = String::from_utf8_lossy(&lint.expect("scripts/packages installs mandoc").stdout).into_owned();
        let faults: Vec<&str> = lint.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        let shown = run(Command::new("mandoc").args(["-T", "utf8"]).arg(&page));
        assert!(String::from_utf8_lossy(&shown.stdout).contains("walkeep"), "{}", page.display());
    }
}

/// Asks a shell to load a completion and to say that it has one.
fn loads(shell: &str, arguments: &[&str], directory: &Path) -> String {
    String::from_utf8_lossy(&run(Command::new(shell).args(arguments).current_dir(directory)).stdout).into_owned()
}

#[test]
fn shells_load_the_completions() {
    let directory = written();
    let bash = directory.path().join("bash-completion/completions");
    for program in ["walkeep", "walkeep-restore"] {
        // As bash does it when one types TAB behind `walkeep ver`.
        let script = format!(
            "set -eu; source ./{program}; said=$(complete -p {program}); echo \"$said\"
             COMP_WORDS=({program} li); COMP_CWORD=1; function=${{said##*-F }}
             ${{function%% *}} {program} li {program}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let said = loads("bash", &["-c", &script], &bash);
        assert!(said.starts_with("complete ") && said.lines().any(|line| line == "list"), "{said}");
    }
    for program in ["walkeep", "walkeep-restore"] {
        let zsh = directory.path().join("zsh/site-functions");
        let script = format!(
            "fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; whence -w _{program}; print $_comps[{program}]"
        );
        let said = loads("zsh", &["-f", "-c", &script], &zsh);
        assert!(
            said.contains(&format!("_{program}: function")) && said.lines().last() == Some(&format!("_{program}")),
            "{said}"
        );
        run(Command::new("zsh").args(["-f", "-n"]).arg(zsh.join(format!("_{program}"))));

        let fish = directory.path().join("fish/vendor_completions.d");
        let script = format!("source {program}.fish; complete --do-complete '{program} li'");
        let said = loads("fish", &["--no-config", "-c", &script], &fish);
        assert!(said.lines().any(|line| line.starts_with("list\t")), "{said}");
    }
}

#[test]
fn completions_know_every_subcommand() {
    let directory = written();
    for (program, sub) in subcommands() {
        for file in [
            format!("bash-completion/completions/{program}"),
            format!("zsh/site-functions/_{program}"),
            format!("fish/vendor_completions.d/{program}.fish"),
        ] {
            let text = fs::read_to_string(directory.path().join(&file)).expect("it was written");
            assert!(text.contains(&sub), "{file} does not know {sub}");
        }
    }
}
