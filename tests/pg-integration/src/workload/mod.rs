//! Data and load: what a scenario puts into a cluster.

mod marker;
mod pgbench;

pub use marker::{Marker, create_marker};
pub use pgbench::{BackgroundLoad, pgbench_init, pgbench_load, pgbench_run, pgbench_trickle};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::cluster::Cluster;
use crate::seed::Seed;

/// One table per access method and per way of storing rows. The text `{s}` is the seed: equal seeds, equal rows.
const SCHEMA: &str = "
create sequence plain_sequence increment 3;
create table btree_rows (id bigserial primary key, name text not null, at timestamptz not null, amount numeric(12,2));
create index btree_name on btree_rows (name, at desc);
create index btree_partial on btree_rows (amount) where amount > 50;
create table gin_rows (id int primary key, tags text[] not null, doc jsonb not null);
create index gin_tags on gin_rows using gin (tags);
create index gin_doc on gin_rows using gin (doc jsonb_path_ops);
create table gist_rows (id int primary key, place point not null, during int4range not null);
create index gist_place on gist_rows using gist (place);
create index gist_during on gist_rows using gist (during);
create index spgist_place on gist_rows using spgist (place);
create table brin_rows (at timestamp not null, reading float8 not null);
create index brin_at on brin_rows using brin (at) with (pages_per_range = 4);
create table hash_rows (key text not null, value int);
create index hash_key on hash_rows using hash (key);
create table toast_rows (id int primary key, short text, long text);
alter table toast_rows alter column long set storage external;
create unlogged table unlogged_rows (id int primary key, note text);
create table parted_rows (id int not null, region text not null) partition by list (region);
create table parted_north partition of parted_rows for values in ('north');
create table parted_rest partition of parted_rows default;
create materialized view summary as select 1 as one;
create view names as select name from btree_rows;
create function shout(text) returns text language sql immutable as 'select upper($1)';
";

const ROWS: &str = "
insert into btree_rows (name, at, amount)
  select md5('{s}-' || i), '2024-01-01'::timestamptz + i * interval '1 minute', (i * 7919 % 10000) / 100.0
  from generate_series(1, {n}) i;
insert into gin_rows
  select i, array['t' || i % 17, 't' || i % 101, md5('{s}' || i % 50)], jsonb_build_object('k', i % 31, 'm', md5(i || '{s}'))
  from generate_series(1, {n}) i;
insert into gist_rows
  select i, point(i * 31 % 1000, i * 17 % 1000), int4range(i, i + i % 100 + 1) from generate_series(1, {n}) i;
insert into brin_rows
  select '2024-01-01'::timestamp + i * interval '1 second', sin(i + {s}) from generate_series(1, {n} * 4) i;
insert into hash_rows select md5(i || '{s}'), i from generate_series(1, {n}) i;
insert into toast_rows
  select i, md5(i || '{s}'), (select string_agg(md5(i || '-' || j || '{s}'), '') from generate_series(1, 50 + i % 400) j)
  from generate_series(1, {n} / 50) i;
insert into unlogged_rows select i, md5(i || '{s}') from generate_series(1, {n}) i;
insert into parted_rows select i, (array['north', 'south', 'west'])[1 + i % 3] from generate_series(1, {n}) i;
select setval('plain_sequence', 1000 + {s} % 1000);
select lo_from_bytea(0, convert_to(repeat(md5('{s}'), 500), 'UTF8'));
";

/// Deterministic data, and changes to it that depend on the seed alone.
#[derive(Debug)]
pub struct Workload {
    seed: Seed,
    rng: StdRng,
    rows: u32,
}

impl Workload {
    /// A workload of a few megabytes.
    pub fn seeded(seed: Seed) -> Self {
        Self { seed, rng: seed.rng(), rows: 5000 }
    }

    /// Another number of rows per table; 5000 are about 8 MB.
    #[must_use]
    pub const fn rows(mut self, rows: u32) -> Self {
        self.rows = rows;
        self
    }

    /// Creates the tables in database `postgres` and fills them: every index access method, TOAST, partitions,
    /// an unlogged table, sequences, a large object.
    #[track_caller]
    pub fn populate(&mut self, cluster: &Cluster) {
        self.populate_database(cluster, "postgres");
    }

    /// [`Workload::populate`] in any existing database.
    #[track_caller]
    pub fn populate_database(&mut self, cluster: &Cluster, database: &str) {
        let session = cluster.session(database);
        session.sql(SCHEMA);
        session.sql(&self.fill_in(ROWS));
        session.sql("refresh materialized view summary");
    }

    /// Tablespace `aside` with a table, an index of another table, and a database of its own. Returns its directory.
    #[track_caller]
    pub fn populate_tablespace(&mut self, cluster: &Cluster) -> std::path::PathBuf {
        let directory = cluster.create_tablespace("aside");
        let text = "create table aside_rows (id int primary key, name text) tablespace aside; \
                    insert into aside_rows select i, md5(i || '{s}') from generate_series(1, {n}) i; \
                    create table half_aside (id int); \
                    insert into half_aside select generate_series(1, {n}); \
                    create index half_aside_id on half_aside (id) tablespace aside";
        cluster.sql(&self.fill_in(text));
        cluster.sql("create database aside_database tablespace aside");
        cluster.session("aside_database").sql(&self.fill_in("create table t as select generate_series(1, {n}) as i"));
        directory
    }

    /// Prepares a transaction and leaves it open; it must survive into a restored cluster.
    #[track_caller]
    pub fn prepare_transaction(&mut self, cluster: &Cluster, name: &str) {
        let session = cluster.session("postgres");
        session.sql("create table if not exists prepared_rows (note text)");
        session.sql(&format!("begin; insert into prepared_rows values ('{name}'); prepare transaction '{name}'"));
    }

    /// `rounds` transactions that insert, update, delete, and now and then truncate, vacuum, rewrite or reindex.
    #[track_caller]
    pub fn churn(&mut self, cluster: &Cluster, rounds: u32) {
        let session = cluster.session("postgres");
        for _ in 0..rounds {
            let (a, b): (u32, u32) = (self.rng.random_range(1..=self.rows), self.rng.random_range(2..200));
            let text = match self.rng.random_range(0..12) {
                0 | 1 => {
                    format!("update btree_rows set amount = amount + 1, name = md5(name || {b}) where id % {b} = 0")
                }
                2 => format!(
                    "insert into btree_rows (name, at, amount) \
                     select md5('{a}-' || i), '2025-01-01'::timestamptz + i * interval '1 s', i from generate_series(1, {b}) i"
                ),
                3 => format!("delete from btree_rows where id between {a} and {a} + {b}"),
                4 => format!("update gin_rows set tags = tags || 'x{b}'::text where id % {b} = 1"),
                5 => format!("update gist_rows set place = point({a}, {b}) where id % {b} = 1"),
                6 => format!("insert into brin_rows select now()::timestamp(0), i from generate_series(1, {b}) i"),
                7 => format!("update hash_rows set key = md5(key || {a}) where value % {b} = 1"),
                8 => format!("update toast_rows set long = md5(long) || long where id % {b} = 1"),
                9 => format!("select nextval('plain_sequence') from generate_series(1, {b})"),
                10 => "vacuum btree_rows".to_owned(),
                _ => self.rewrite(),
            };
            session.sql(&text);
        }
    }

    /// A change that replaces whole files.
    fn rewrite(&mut self) -> String {
        let texts = [
            "truncate unlogged_rows",
            "vacuum full hash_rows",
            "reindex table gin_rows",
            "cluster btree_rows using btree_name",
            "create table if not exists short_lived as select generate_series(1, 1000) i",
            "drop table if exists short_lived",
        ];
        texts[self.rng.random_range(0..texts.len())].to_owned()
    }

    /// The generator, for choices of the scenario's own.
    pub const fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    fn fill_in(&self, text: &str) -> String {
        text.replace("{s}", &self.seed.to_string()).replace("{n}", &self.rows.to_string())
    }
}
