//! README.md, before the first cluster: the scratch cluster to look at, and the installation from source.

use walkeep_pg_integration::documents::Host;

/// Puts a `cargo` on the host that has built everything: what it would compile is under test already, with other features and
/// for a quarter of an hour. It knows the two ways in which the pages call it.
fn let_cargo_have_built(host: &Host) {
    host.write(
        "/usr/local/bin/cargo",
        "#!/bin/bash\ncase \"$*\" in\n\"build --release --workspace\" | \"build --release --workspace --locked\") ;;\n\
         *) echo \"cargo $* is not played\" >&2; exit 1 ;;\nesac\n",
    );
    host.run(
        "chmod 0755 /usr/local/bin/cargo
         mkdir -p ~/.cache/walkeep/target/release
         for program in walkeep walkeep-restore walkeep-pages; do
             touch ~/.cache/walkeep/target/release/$program
             mount --bind /usr/local/bin/$program ~/.cache/walkeep/target/release/$program
             umount /usr/local/bin/$program
             rm /usr/local/bin/$program
         done",
    )
    .ok();
}

#[test]
fn a_scratch_cluster_shows_it_at_work() {
    let host = Host::new();
    let_cargo_have_built(&host);
    host.walk("README.md", "Walkeep").run("scripts/quickstart").assert_says("pgbench_accounts");
    host.run("! grep -lx postgres /proc/[0-9]*/comm 2>/dev/null && ! ls -d /tmp/walkeep-quickstart.* 2>/dev/null").ok();
}

#[test]
fn it_is_installed_from_source() {
    let host = Host::new();
    let_cargo_have_built(&host);
    host.walk("README.md", "Installing from source").run("walkeep-pages");
    for program in ["walkeep", "walkeep-restore"] {
        let installed = host.run(&format!("command -v {program}; {program} --version")).ok();
        installed.assert_says(&format!("/usr/local/bin/{program}\n{program} {}", env!("CARGO_PKG_VERSION")));
        host.run(&format!("mandoc -T utf8 /usr/local/share/man/man1/{program}.1"))
            .ok()
            .assert_says(&format!("{}(1)", program.to_uppercase()));
        host.run(&format!("test -s /usr/local/share/bash-completion/completions/{program}")).ok();
    }
}
