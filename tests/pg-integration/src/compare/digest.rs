//! What SQL can see of a cluster, in a form that can be compared and whose differences can be read.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::sql::Session;

/// Cluster-wide facts: each query gives (what, value).
const CLUSTER: &[&str] = &[
    "select 'system identifier', system_identifier::text from pg_control_system()",
    "select 'setting ' || name, setting from pg_settings where name in ('server_version_num', 'block_size', \
     'wal_block_size', 'wal_segment_size', 'segment_size', 'data_checksums', 'data_directory_mode')",
    // What recovery needs is written by a restore and is no property of the original.
    "select 'file setting ' || name, string_agg(setting, ' then ' order by seqno) from pg_file_settings \
     where name !~ '^(recovery_|restore_command|archive_cleanup_command|primary_|promote_trigger_file|archive_mode)' \
     group by name",
    "select 'role ' || rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, \
     rolreplication, rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil) from pg_authid",
    "select 'membership ' || roleid::regrole || ' ' || member::regrole, admin_option::text from pg_auth_members",
    "select 'tablespace ' || spcname, concat_ws(' ', spcowner::regrole, spcacl, spcoptions) from pg_tablespace",
    "select 'database ' || datname, concat_ws(' ', d.oid, pg_encoding_to_char(encoding), datdba::regrole, \
     datallowconn, datacl, spcname) from pg_database d join pg_tablespace s on s.oid = dattablespace",
    "select 'role setting ' || setdatabase || ' ' || setrole, setconfig::text from pg_db_role_setting",
    "select 'prepared transaction ' || gid, concat_ws(' ', owner, database) from pg_prepared_xacts",
];

/// Facts of one database, user objects only: what belongs to an extension comes and goes with it.
const DATABASE: &[&str] = &[
    "select 'relation ' || c.oid::regclass, concat_ws(' ', c.oid, relkind, relpersistence, relam, \
     relowner::regrole, relacl, reloptions, (select string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), \
     attnotnull, pg_get_expr(d.adbin, d.adrelid)), ', ' order by attnum) from pg_attribute a left join pg_attrdef d \
     on (d.adrelid, d.adnum) = (a.attrelid, a.attnum) where attrelid = c.oid and attnum > 0 and not attisdropped)) \
     from pg_class c where c.oid >= 16384 and relnamespace <> 'pg_toast'::regnamespace \
     and relnamespace not in (select oid from pg_namespace where nspname ~ '^pg_(toast_)?temp_')",
    "select 'index ' || indexrelid::regclass, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid, indisready) \
     from pg_index where indexrelid >= 16384 and indrelid >= 16384",
    "select 'constraint ' || conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid) from pg_constraint \
     where oid >= 16384 and conrelid <> 0",
    "select 'view ' || c.oid::regclass, pg_get_viewdef(c.oid) from pg_class c where relkind in ('v', 'm') and oid >= 16384",
    "select 'function ' || p.oid::regprocedure, md5(pg_get_functiondef(p.oid)) from pg_proc p where p.oid >= 16384 and \
     prokind <> 'a' and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype = 'e')",
    "select 'large object ' || loid, md5(string_agg(data, ''::bytea order by pageno)) from pg_largeobject group by loid",
];

/// Tables and materialized views with rows, and how they persist.
const TABLES: &str = "select c.oid::regclass::text, relpersistence from pg_class c \
     where relkind in ('r', 'm') and relispopulated and relpersistence <> 't' and c.oid >= 16384 \
     and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) order by 1";

const SEQUENCES: &str = "select c.oid::regclass::text, seqincrement from pg_sequence s join pg_class c on c.oid = seqrelid \
     where relpersistence = 'p'";

const NO_ROWS: &str = "0 rows, digest 0";

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// `last_value`.
    pub last: i64,
    /// The step.
    pub increment: i64,
}

/// A cluster's contents, settings and definitions. Two clusters with equal digests are the same to their users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digest {
    facts: BTreeMap<String, String>,
    unlogged: BTreeMap<String, String>,
    sequences: BTreeMap<String, Sequence>,
}

impl Digest {
    /// Reads a whole running cluster, each database in one transaction. Works on a hot standby.
    #[track_caller]
    pub fn of(cluster: &Cluster) -> Self {
        let mut digest = Self::default();
        let session = cluster.session("postgres");
        for query in CLUSTER {
            digest.add_facts("", &session, query);
        }
        for row in session.query("select datname from pg_database where datallowconn order by 1") {
            let database = row.into_iter().flatten().collect::<String>();
            digest.add_database(&cluster.session(&database), &database);
        }
        digest
    }

    fn add_facts(&mut self, prefix: &str, session: &Session, query: &str) {
        for row in session.query(query) {
            let mut fields = row.into_iter().map(Option::unwrap_or_default);
            let name = fields.next().unwrap_or_default();
            self.facts.insert(format!("{prefix}{name}"), fields.next().unwrap_or_default());
        }
    }

    fn add_database(&mut self, session: &Session, database: &str) {
        let prefix = format!("{database}: ");
        session.sql("set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 1; set search_path = ''");
        session.sql("begin isolation level repeatable read read only");
        for query in DATABASE {
            self.add_facts(&prefix, session, query);
        }
        let in_recovery = session.query_one::<String>("select pg_is_in_recovery()") == "t";
        for row in session.query(TABLES) {
            let [Some(table), Some(persistence)] = row.as_slice() else { continue };
            if in_recovery && persistence == "u" {
                // A hot standby refuses to read them; what it will have of them when promoted is nothing.
                self.unlogged.insert(format!("{prefix}rows of {table}"), NO_ROWS.to_owned());
                continue;
            }
            // The sum does not depend on the order of rows; a swapped, lost or doubled row changes it.
            let query = format!(
                "select count(*) || ' rows, digest ' || coalesce(sum(hashtextextended(walkeep_row::text, 0)::numeric), 0) \
                 from only {table} as walkeep_row"
            );
            let contents: String = session.query_one(&query);
            let into = if persistence == "u" { &mut self.unlogged } else { &mut self.facts };
            into.insert(format!("{prefix}rows of {table}"), contents);
        }
        for row in session.query(SEQUENCES) {
            let [Some(name), Some(increment)] = row.as_slice() else { continue };
            let last = session.query_one(&format!("select last_value from {name}"));
            let increment = increment.parse().expect("seqincrement is a bigint");
            self.sequences.insert(format!("{prefix}sequence {name}"), Sequence { last, increment });
        }
        session.sql("commit");
    }

    /// The contents recorded for a table, e.g. `table("postgres", "public.markers")`: `12 rows, digest …`.
    pub fn table(&self, database: &str, table: &str) -> Option<&str> {
        let key = format!("{database}: rows of {table}");
        self.facts.get(&key).or_else(|| self.unlogged.get(&key)).map(String::as_str)
    }

    /// What a user would notice: everything must be the same.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = compare(&self.facts, &other.facts);
        found.extend(compare(&self.unlogged, &other.unlogged));
        found.extend(compare(&shown(&self.sequences), &shown(&other.sequences)));
        found
    }

    /// What a user would notice after recovery, where PostgreSQL itself promises less: unlogged tables are empty, and
    /// a sequence may have moved on by up to 32 steps.
    pub fn differences_after_recovery(&self, recovered: &Self) -> Vec<String> {
        let mut found = compare(&self.facts, &recovered.facts);
        let emptied = self.unlogged.keys().map(|name| (name.clone(), NO_ROWS.to_owned())).collect();
        found.extend(compare(&emptied, &recovered.unlogged));
        let near = self.sequences.iter().map(|(name, before)| {
            let after = recovered.sequences.get(name).copied();
            let steps = after.map_or(0, |after| (after.last - before.last) / before.increment);
            (name.clone(), if (0..=32).contains(&steps) { after.unwrap_or(*before) } else { *before })
        });
        found.extend(compare(&shown(&near.collect()), &shown(&recovered.sequences)));
        found
    }

    /// Panics with the differences, if there are any.
    #[track_caller]
    pub fn assert_equal(&self, other: &Self) {
        report(&self.differences(other));
    }

    /// Panics with the differences that recovery does not explain, if there are any.
    #[track_caller]
    pub fn assert_recovered(&self, recovered: &Self) {
        report(&self.differences_after_recovery(recovered));
    }
}

#[track_caller]
fn report(differences: &[String]) {
    assert!(differences.is_empty(), "the clusters differ:\n  {}", differences.join("\n  "));
}

fn shown(sequences: &BTreeMap<String, Sequence>) -> BTreeMap<String, String> {
    sequences.iter().map(|(name, s)| (name.clone(), format!("{} by {}", s.last, s.increment))).collect()
}

fn compare(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differs = |name: &&&String| left.get(**name) != right.get(**name);
    let line = |name: &String| match (left.get(name), right.get(name)) {
        (Some(value), None) => format!("missing: {name} = {value}"),
        (None, Some(value)) => format!("unexpected: {name} = {value}"),
        (left, right) => format!("{name}: {} became {}", left.map_or("", |v| v), right.map_or("", |v| v)),
    };
    names.iter().filter(differs).map(|name| line(name)).collect()
}
