//! Chains of incremental backups, beside those of PostgreSQL's own programs and beside reading everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::RngExt;
use walkeep_pg_integration::compare::verify_backup;
use walkeep_pg_integration::user::TestUser;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Output, Scratch, Seed, StopMode, Workload, scenario};

use super::super::{Tree, tree};
use super::{id, incremental, summarising, with_data};
use crate::backup_restore::comes_back;

/// A chain by `pg_basebackup`, in directories named after their numbers.
pub struct Native<'a> {
    scratch: &'a Scratch,
    links: Vec<PathBuf>,
}

impl<'a> Native<'a> {
    /// A full backup.
    #[track_caller]
    pub fn begin(cluster: &Cluster, scratch: &'a Scratch) -> Self {
        let mut chain = Self { scratch, links: Vec::new() };
        chain.add(cluster, "none");
        chain
    }

    /// One more incremental backup.
    #[track_caller]
    pub fn extend(&mut self, cluster: &Cluster) {
        self.add(cluster, "none");
    }

    /// One more, from which a server can be started.
    #[track_caller]
    pub fn extend_with_wal(&mut self, cluster: &Cluster) {
        self.add(cluster, "fetch");
    }

    #[track_caller]
    fn add(&mut self, cluster: &Cluster, wal: &str) {
        let link = self.scratch.path().join(self.links.len().to_string());
        let mut command = TestUser::get().command(cluster.tools().client("pg_basebackup"));
        command.envs(cluster.client_environment()).arg("-D").arg(&link);
        command.args(["--checkpoint=fast", "--no-sync", "-X", wal]);
        if let Some(last) = self.links.last() {
            command.arg("--incremental").arg(last.join("backup_manifest"));
        }
        for (name, directory) in tablespaces(cluster) {
            let new = self.scratch.path().join(format!("{name}-{}", self.links.len()));
            command.arg("-T").arg(format!("{}={}", directory.display(), new.display()));
        }
        Output::of(&mut command).ok();
        self.links.push(link);
    }

    /// What `pg_combinebackup` makes of it: a stopped cluster.
    #[track_caller]
    pub fn combined(&self, cluster: &Cluster) -> Cluster {
        let scratch = Scratch::new("combined");
        let data = scratch.path().join("data");
        let mut command = TestUser::get().command(cluster.tools().client("pg_combinebackup"));
        command.args(["--no-sync", "-o"]).arg(&data);
        for (name, _) in tablespaces(cluster) {
            let old = self.scratch.path().join(format!("{name}-{}", self.links.len() - 1));
            let new = scratch.path().join(name);
            command.arg("-T").arg(format!("{}={}", old.display(), new.display()));
        }
        Output::of(command.args(&self.links)).ok();
        Cluster::adopt(cluster.server().clone(), scratch, data)
    }
}

/// Name and directory of every tablespace that is elsewhere.
fn tablespaces(cluster: &Cluster) -> Vec<(String, PathBuf)> {
    let query =
        "select spcname, pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) ~ '^/'";
    let rows = cluster.query(query).into_iter();
    rows.map(|row| row.into_iter().flatten().collect::<Vec<_>>())
        .map(|row| (row[0].clone(), PathBuf::from(&row[1])))
        .collect()
}

/// Some of everything that changes a file, in an order that depends on the seed.
fn change(cluster: &Cluster, workload: &mut Workload, round: u32) {
    // First what makes a checkpoint of its own: behind one, the servers' own incremental backups can lose what is
    // written behind a truncation (see `truncation`), and no comparison with them would hold.
    if round == 1 {
        cluster.sql("create database copied strategy file_copy");
        cluster.session("copied").sql("create table t as select generate_series(1, 2000) i");
    }
    cluster.sql(&format!("create database logged_{round} strategy wal_log"));
    cluster.session(&format!("logged_{round}")).sql("create table t as select generate_series(1, 2000) i");
    workload.churn(cluster, 25);
    pgbench_run(cluster, 50, Seed::fixed(u64::from(round)));
    cluster.sql("update aside_rows set name = name || 'x' where id % 10 = 0");
    cluster.session("aside_database").sql(&format!("delete from t where i % 10 = {round}"));
    let kept = workload.rng().random_range(100..900);
    cluster.sql(&format!("create table cut_{round} as select i, md5(i::text) from generate_series(1, 20000) i"));
    if round > 1 {
        cluster.sql(&format!("delete from cut_{} where i > {kept}", round - 1));
        cluster.sql(&format!("vacuum (truncate on) cut_{}", round - 1));
        cluster.sql("drop index added");
        cluster.sql("truncate emptied");
    }
    cluster.sql("create table if not exists emptied (i int)");
    cluster.sql("insert into emptied select generate_series(1, 3000)");
    cluster.sql("create index added on toast_rows (md5(long))");
    cluster.sql("vacuum full gist_rows");
    settle(cluster);
}

/// Afterwards neither reads nor checkpoints change a page.
fn settle(cluster: &Cluster) {
    for row in cluster.query("select datname from pg_database where datallowconn") {
        let database = row.into_iter().flatten().collect::<String>();
        cluster.session(&database).sql("vacuum (truncate off)");
    }
    cluster.sql("checkpoint");
}

/// What two backups have in common, whoever made them.
fn files(data: &Path) -> Tree {
    tree(data)
}

#[track_caller]
fn assert_same(left: &Tree, right: &Tree) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (name, (mode, content)) in left {
        let (other_mode, other) = &right[name];
        assert_eq!(mode, other_mode, "mode of '{name}'");
        let pages = content.chunks(8192).zip(other.chunks(8192)).enumerate();
        let differing: Vec<usize> = pages.filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
        assert!(content == other, "'{name}' differs: {} and {} bytes, pages {differing:?}", content.len(), other.len());
    }
}

/// Beside `pg_basebackup --incremental` and `pg_combinebackup`, at the same moments: the same files.
fn a_native_chain_gives_the_same(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major));
    workload.populate_tablespace(&cluster);
    pgbench_init(&cluster, 1);
    settle(&cluster);
    let scratch = Scratch::new("native");
    let mut chain = Native::begin(&cluster, &scratch);
    let mut newest = walkeep.backup(&super::WIRE);
    for round in 1..=3 {
        change(&cluster, &mut workload, round);
        chain.extend(&cluster);
        newest = incremental(&walkeep, &newest);
    }
    let combined = chain.combined(&cluster);
    let restore = walkeep.restore().args(&["--backup", id(&newest), "--target", "immediate"]).map_tablespaces(&cluster);
    let restored = restore.files();
    verify_backup(restored.data(), &[]).ok();
    let comparable = |data: &Path| -> Tree {
        let own = |name: &str| {
            // Only a backup that is to be recovered has these; `pg_basebackup` makes links of the map at once.
            ["tablespace_map", "recovery.signal"].contains(&name)
                // 18.4's summaries miss the bits that heap records clear, and its merged maps may be stale for it.
                || name.ends_with("_vm")
                // Left empty by both, with other subdirectories.
                || name.starts_with("pg_wal/")
        };
        files(data).into_iter().filter(|(name, _)| !own(name)).collect::<BTreeMap<_, _>>()
    };
    assert_same(&comparable(combined.data()), &comparable(restored.data()));
}
scenario!([V18], a_native_chain_gives_the_same);

/// Beside a backup for which the server sends everything: the same files, visibility maps and all; and the same rows.
fn a_chain_is_what_a_full_read_gives(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major));
    workload.populate_tablespace(&cluster);
    pgbench_init(&cluster, 1);
    // The first parent is of the other source.
    let mut newest = walkeep.backup(&["--source", "local"]);
    let mut earlier = Vec::new();
    for round in 1..=3 {
        change(&cluster, &mut workload, round);
        newest = incremental(&walkeep, &newest);
        if round == 2 {
            newest = walkeep.backup(&["--source", "local"]);
            assert_eq!(newest["kind"], "scan", "{newest}");
        }
        earlier.push((newest.clone(), Digest::of(&cluster)));
        settle(&cluster);
    }
    newest = incremental(&walkeep, &newest);
    let whole = walkeep.backup(&["--source", "replication", "--full-read"]);
    let trees = [&newest, &whole].map(|backup| {
        let restore = walkeep.restore().args(&["--backup", id(backup), "--target", "immediate"]);
        let restored = restore.map_tablespaces(&cluster).files();
        verify_backup(restored.data(), &[]).ok();
        files(restored.data())
    });
    assert_same(&trees[1], &trees[0]);
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    walkeep.verify();
    comes_back(&walkeep, &cluster, &newest, &["--target", "immediate"], &expected);
    for (backup, at) in &earlier {
        comes_back(&walkeep, &cluster, backup, &["--target", "immediate"], at);
    }
}
scenario!([V17, V18], a_chain_is_what_a_full_read_gives);

/// The merged backup is one that `pg_basebackup` can build on, as on its own.
fn a_native_backup_builds_on_it(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major));
    let first = walkeep.backup(&super::WIRE);
    workload.churn(&cluster, 10);
    let second = incremental(&walkeep, &first);
    let mut restored = walkeep.restore().args(&["--backup", id(&second), "--target", "immediate"]).files();
    verify_backup(restored.data(), &[]).ok();
    workload.churn(&cluster, 5);
    settle(&cluster);
    let scratch = Scratch::new("native");
    let link = scratch.path().join("increment");
    let mut command = TestUser::get().command(cluster.tools().client("pg_basebackup"));
    command.envs(cluster.client_environment()).args(["--checkpoint=fast", "--no-sync", "-X", "fetch", "-D"]).arg(&link);
    Output::of(command.arg("--incremental").arg(restored.data().join("backup_manifest"))).ok();
    let expected = Digest::of(&cluster);
    let combined = scratch.path().join("combined");
    let mut command = TestUser::get().command(cluster.tools().client("pg_combinebackup"));
    Output::of(command.args(["--no-sync", "-o"]).arg(&combined).arg(restored.data()).arg(&link)).ok();
    let mut combined = Cluster::adopt(cluster.server().clone(), scratch, combined);
    combined.start();
    combined.wait_writable();
    expected.assert_recovered(&Digest::of(&combined));
    combined.stop(StopMode::Fast);
    assert!(!restored.is_running());
}
scenario!([V18], a_native_backup_builds_on_it);
