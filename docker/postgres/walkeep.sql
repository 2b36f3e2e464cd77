-- The agent's role, made when the cluster is made. docker/README.md says how to run this on a cluster that exists.
\set ON_ERROR_STOP on
\set password `cat /run/secrets/walkeep-password`
\connect postgres
CREATE ROLE walkeep LOGIN REPLICATION PASSWORD :'password';
GRANT pg_monitor TO walkeep;
-- PostgreSQL 15 and later; until 14 they are pg_start_backup(text, boolean, boolean) and pg_stop_backup(boolean, boolean).
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO walkeep;
GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO walkeep;
