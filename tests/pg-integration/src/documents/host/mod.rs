//! A machine to follow a page on: Debian with the programs installed, and nothing of it outlives the test.
//!
//! A process in namespaces of its own (mounts, processes, network) whose root directory is a scratch one: the programs are
//! the machine's, below `/usr`; `/etc`, `/var`, `/srv`, `/run` and `/tmp` are its own. So commands name the paths, users and
//! ports that a reader has, and several such hosts do not meet. `sudo` and `systemctl` are small stand-ins, for no container
//! has them running: see `sudo` and `systemctl` beside this file for what they do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::page::repository_root;
use super::walk::Walk;
use crate::binaries;
use crate::output::Output;
use crate::s3::rclone;
use crate::tls::{Authority, Signature, Subject};
use crate::user::Scratch;

const SETUP: &str = include_str!("setup");
const STAND_INS: [(&str, &str); 2] = [("sudo", include_str!("sudo")), ("systemctl", include_str!("systemctl"))];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The machine; ends with everything that runs on it when dropped.
#[derive(Debug)]
pub struct Host {
    unshare: Child,
    /// As long as this is open, the host's first process lives.
    life: Option<ChildStdin>,
    /// The host's first process, as this machine counts.
    first: u32,
    scratch: Scratch,
}

impl Host {
    /// A host with `walkeep`, `walkeep-restore` and `walkeep-pages` in `/usr/local/bin`, and no cluster.
    #[track_caller]
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests of documentation make namespaces: run them as root, in a container with --privileged"
        );
        let scratch = Scratch::new("host");
        let stand_ins = scratch.subdirectory("stand-ins");
        for (name, text) in STAND_INS {
            fs::write(stand_ins.join(name), text).expect("a file can be written");
        }
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--net",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            SETUP,
            "setup",
        ]);
        command.arg(scratch.path().join("root")).arg(repository_root()).arg(stand_ins);
        command.args(["walkeep", "walkeep-restore"].map(binaries::path));
        command.args([binaries::for_root("walkeep-pages"), rclone()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut unshare = command.spawn().unwrap_or_else(|e| panic!("unable to run unshare: {e}"));
        let mut said = String::new();
        let printed = unshare.stdout.take().expect("it is piped");
        BufReader::new(printed).read_line(&mut said).expect("what it says is text");
        assert_eq!(said, "ready\n", "the host could not be set up: tests of documentation need --privileged");
        let children = format!("/proc/{pid}/task/{pid}/children", pid = unshare.id());
        let children = fs::read_to_string(&children).unwrap_or_else(|e| panic!("unable to read {children}: {e}"));
        let first = children.trim().parse().unwrap_or_else(|_| panic!("one child was expected: '{children}'"));
        let life = unshare.stdin.take();
        Self { unshare, life, first, scratch }
    }

    /// A host on which Debian's cluster `15/main` runs, with checksums, as its package makes it.
    #[track_caller]
    pub fn with_cluster() -> Self {
        let host = Self::new();
        host.run("pg_createcluster 15 main --start -- --data-checksums --no-sync").ok();
        host
    }

    /// Like [`Host::with_cluster`], protected as the README says: a repository in `/srv/walkeep`, archiving.
    #[track_caller]
    pub fn protected() -> Self {
        let host = Self::with_cluster();
        host.run(
            "install -d -o postgres -g postgres -m 0750 /etc/walkeep /var/lib/walkeep /srv/walkeep
             sudo -u postgres walkeep init --pgdata /var/lib/postgresql/15/main --repo /srv/walkeep --apply
             systemctl restart postgresql@15-main",
        )
        .ok();
        host
    }

    /// Runs shell commands as root, in the directory of the sources, to their end.
    #[track_caller]
    pub fn run(&self, commands: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first.to_string());
        command.args(["--mount", "--pid", "--net", "--root", "--wdns=/src/walkeep", "bash", "-euo", "pipefail", "-c"]);
        command.arg(commands).stdin(Stdio::null());
        command.env_clear().envs([("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]);
        Output::of(&mut command)
    }

    /// Runs SQL as the superuser in the database `postgres`, and returns what it gives, unaligned.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        let file = "/tmp/statements.sql";
        self.write(file, statements);
        self.run(&format!("sudo -u postgres psql -XqAt -v ON_ERROR_STOP=1 -f {file}")).ok().stdout.trim().to_owned()
    }

    /// Writes a file that everybody may read.
    pub fn write(&self, file: &str, content: &str) {
        let path = self.file(file);
        fs::write(&path, content).unwrap_or_else(|e| panic!("unable to write {}: {e}", path.display()));
    }

    /// Appends to a file that is there.
    #[track_caller]
    pub fn append(&self, file: &str, content: &str) {
        let path = self.file(file);
        let appended =
            fs::OpenOptions::new().append(true).open(&path).and_then(|mut f| f.write_all(content.as_bytes()));
        appended.unwrap_or_else(|e| panic!("unable to append to {}: {e}", path.display()));
    }

    /// What a file holds.
    #[track_caller]
    pub fn read(&self, file: &str) -> String {
        let path = self.file(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("unable to read {}: {e}", path.display()))
    }

    /// Where a file of the host is on this machine: through the eyes of its first process.
    fn file(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{file}", self.first))
    }

    /// A credentials file as AWS's tools have it, for [`Host::serve_s3`].
    pub const CREDENTIALS: &str = "[default]\naws_access_key_id = documented-access-key\naws_secret_access_key = documented-secret-of-this-test\n";

    /// A configuration of s3cmd for that service.
    pub const S3CMD: &str = "[default]\naccess_key = documented-access-key\nsecret_key = documented-secret-of-this-test\n\
                             host_base = s3.example.com\nhost_bucket = s3.example.com\n\
                             ca_certs_file = /etc/ssl/certs/ca-certificates.crt\n";

    /// A configuration of rclone for that service, as `remote:`.
    pub const RCLONE: &str = "[remote]\ntype = s3\nprovider = Other\nendpoint = https://s3.example.com\n\
                              access_key_id = documented-access-key\n\
                              secret_access_key = documented-secret-of-this-test\n";

    /// Lets the cluster `15/main` show a certificate for `db1.example.com` from now on, which the authority in the file `ca`
    /// vouches for.
    #[track_caller]
    pub fn present_certificate(&self, ca: &str) {
        let authority = Authority::new(Signature::Sha256);
        let certificates = self.scratch.subdirectory("tls");
        authority.issue(Subject::server(&["db1.example.com"])).write(&certificates, "server");
        self.write(ca, &fs::read_to_string(authority.root()).expect("it was written"));
        for name in ["server.crt", "server.key"] {
            let text = fs::read_to_string(certificates.join(name)).expect("it was written");
            self.write(&format!("/etc/postgresql/15/main/{name}"), &text);
        }
        self.run("cd /etc/postgresql/15/main; chown postgres: server.*; chmod 0600 server.key").ok();
        self.sql("alter system set ssl_cert_file = '/etc/postgresql/15/main/server.crt'");
        self.sql("alter system set ssl_key_file = '/etc/postgresql/15/main/server.key'");
        self.sql("alter system set ssl = on");
        self.run("systemctl reload postgresql@15-main").ok();
    }

    /// Starts an S3 service that answers as `https://s3.example.com` and that the host trusts, without a bucket.
    #[track_caller]
    pub fn serve_s3(&self) {
        let authority = Authority::new(Signature::Sha256);
        let certificates = self.scratch.subdirectory("s3");
        authority.issue(Subject::server(&["s3.example.com", "localhost"])).write(&certificates, "s3");
        let root = fs::read_to_string(authority.root()).expect("it was written");
        self.append("/etc/ssl/certs/ca-certificates.crt", &root);
        for name in ["s3.crt", "s3.key"] {
            self.write(
                &format!("/etc/ssl/{name}"),
                &fs::read_to_string(certificates.join(name)).expect("it was written"),
            );
        }
        self.run(
            "install -d /srv/s3
             setsid rclone serve s3 --config '' --dir-cache-time 200ms --addr s3.example.com:443 --cert /etc/ssl/s3.crt \
                 --key /etc/ssl/s3.key --auth-key documented-access-key,documented-secret-of-this-test /srv/s3 \
                 </dev/null >/var/log/s3.log 2>&1 &",
        )
        .ok();
        let answers = "exec 3<>/dev/tcp/s3.example.com/443";
        crate::wait_until("the S3 service to listen", crate::wait::SOON, || self.run(answers).succeeded());
    }

    /// Gives root and postgres the keys of that service, in `~/.aws/credentials`.
    #[track_caller]
    pub fn own_credentials(&self) {
        self.write("/tmp/credentials", Self::CREDENTIALS);
        self.run(
            "install -D -m 0600 /tmp/credentials /root/.aws/credentials
             install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/.aws
             install -o postgres -g postgres -m 0600 /tmp/credentials /var/lib/postgresql/.aws/",
        )
        .ok();
    }

    /// Waits until a query gives `t`. An attempt that fails counts as "not yet".
    #[track_caller]
    pub fn wait_sql(&self, what: &str, query: &str) {
        self.write("/tmp/condition.sql", query);
        crate::wait_until(what, crate::wait::SOON, || {
            self.run("sudo -u postgres psql -XqAt -f /tmp/condition.sql").stdout.trim() == "t"
        });
    }

    /// Closes the current WAL segment, and waits until the archiver has handed it over.
    #[track_caller]
    pub fn archive_everything(&self) {
        self.sql("select pg_create_restore_point('everything up to here')");
        let segment = self.sql("select pg_walfile_name(pg_switch_wal())");
        let archived = format!("select coalesce(last_archived_wal >= '{segment}', false) from pg_stat_archiver");
        self.wait_sql("the last segment to be archived", &archived);
    }

    /// Begins with a section of a page.
    #[track_caller]
    pub fn walk(&self, page: &str, heading: &str) -> Walk<'_> {
        Walk::new(self, page, heading)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.run("tail -n 60 /var/log/*.log /var/log/postgresql/*.log 2>/dev/null || true");
            eprintln!("-- logs of the host\n{}\n--", logs.stdout);
        }
        drop(self.life.take());
        let _ = self.unshare.wait();
    }
}
