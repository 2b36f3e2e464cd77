//! Whether a cluster is undamaged, by PostgreSQL's own judges where they exist for its major.

use walkeep_proto::version::MajorVersion;

use super::pages::{PageReport, scan_pages};
use crate::cluster::Cluster;
use crate::output::Output;
use crate::user::TestUser;

/// Checks every table and B-tree index of every database; panics with what is damaged. The cluster must be writable,
/// because the extension `amcheck` is created (in `pg_catalog`) where it is missing.
#[track_caller]
pub fn amcheck(cluster: &Cluster) {
    if let Err(damage) = try_amcheck(cluster) {
        panic!("amcheck of PostgreSQL {}: {damage}", cluster.major())
    }
}

/// [`amcheck`] that returns what is damaged.
pub fn try_amcheck(cluster: &Cluster) -> Result<(), String> {
    if cluster.major() == MajorVersion::V13 {
        return amcheck_indexes_by_sql(cluster); // pg_amcheck needs verify_heapam(), which came with 14
    }
    let mut command = TestUser::get().command(cluster.tools().client("pg_amcheck"));
    command.envs(cluster.client_environment());
    command.args(["--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend"]);
    if cluster.major() >= MajorVersion::V17 {
        command.arg("--checkunique");
    }
    let output = Output::of(&mut command);
    if output.succeeded() { gin_check(cluster) } else { Err(output.to_string()) }
}

/// On 13: that every B-tree index is sound and holds every row of its table, which reads the tables too.
fn amcheck_indexes_by_sql(cluster: &Cluster) -> Result<(), String> {
    in_each_database(
        cluster,
        "create extension if not exists amcheck schema pg_catalog",
        "select indexrelid::regclass, bt_index_parent_check(indexrelid, true, true) from pg_index i \
         join pg_class c on c.oid = indexrelid join pg_am a on a.oid = relam \
         where amname = 'btree' and relkind = 'i' and relpersistence <> 't' and indisvalid and indisready",
    )
}

/// On 18: GIN indexes too, which `pg_amcheck` leaves out.
fn gin_check(cluster: &Cluster) -> Result<(), String> {
    if cluster.major() < MajorVersion::V18 {
        return Ok(());
    }
    in_each_database(
        cluster,
        "create extension if not exists amcheck schema pg_catalog",
        "select indexrelid::regclass, gin_index_check(indexrelid) from pg_index i join pg_class c on c.oid = indexrelid \
         join pg_am a on a.oid = relam where amname = 'gin' and relkind = 'i' and relpersistence <> 't' and indisvalid",
    )
}

fn in_each_database(cluster: &Cluster, prepare: &str, check: &str) -> Result<(), String> {
    for row in cluster.query("select datname from pg_database where datallowconn") {
        let database = row.into_iter().flatten().collect::<String>();
        let session = cluster.session(&database);
        let checked = session.try_sql(prepare).and_then(|()| session.try_sql(check));
        checked.map_err(|e| format!("database {database}: {e}"))?;
    }
    Ok(())
}

/// Verifies the checksum of every page of a stopped cluster, and has `pg_checksums` do so where one knows the major.
/// Panics with the damage; returns what was looked at.
#[track_caller]
pub fn checksums(cluster: &mut Cluster) -> PageReport {
    let report = try_checksums(cluster).unwrap_or_else(|e| panic!("pg_checksums disagrees with the harness: {e}"));
    assert!(report.pages > 0, "no page of {} has a checksum", cluster.data().display());
    assert!(report.failures.is_empty(), "damaged pages:\n  {}", report.failures.join("\n  "));
    report
}

/// [`checksums`] that returns the damage in the report, and an error only when `pg_checksums` disagrees with it.
pub fn try_checksums(cluster: &mut Cluster) -> Result<PageReport, Output> {
    assert!(!cluster.is_running(), "stop the cluster before its pages are verified");
    let report = scan_pages(cluster.data());
    let program = cluster.tools().reading_control_file("pg_checksums");
    if let Some(program) = program.filter(|_| finds_tablespaces(cluster)) {
        let output = Output::of(TestUser::get().command(program).arg("--check").arg("-D").arg(cluster.data()));
        if output.succeeded() != report.failures.is_empty() {
            return Err(output);
        }
    }
    Ok(report)
}

/// Whether `pg_checksums` can follow the cluster into its tablespaces, whose directories are named after the major:
/// 15's, which stands in for 13's and 14's, looks for its own.
fn finds_tablespaces(cluster: &Cluster) -> bool {
    let mut tablespaces = std::fs::read_dir(cluster.data().join("pg_tblspc")).into_iter().flatten();
    cluster.major() >= MajorVersion::V15 || tablespaces.next().is_none()
}
