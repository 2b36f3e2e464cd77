//! Every server: objects come and go, signatures are checked, stops are survived.

use walkeep_pg_integration::s3::{Credentials, Kind};
use walkeep_pg_integration::user::{TestUser, write_file};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::{Output, Scratch, wait_until};

use super::{MIB, content, cut, refused, with_bucket};

#[test]
fn every_server_stores_lists_and_removes_objects() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let client = server.client();
        let large = content(9 * MIB + 7);
        client.put("backups", "a/large", large.clone()).unwrap();
        client.put("backups", "a/b/empty", "").unwrap();
        client.put("backups", "other", "x").unwrap();
        assert_eq!(client.list("backups", "a/").unwrap(), ["a/b/empty", "a/large"], "{kind:?}");
        assert!(client.get("backups", "a/large").unwrap() == large, "{kind:?} gave something else");
        assert!(client.get_range("backups", "a/large", 4_000_000, 70).unwrap() == large[4_000_000..4_000_070]);
        assert_eq!(client.head("backups", "a/large").unwrap().length, large.len() as u64);
        client.put("backups", "other", "y").unwrap();
        assert_eq!(client.get("backups", "other").unwrap(), b"y");
        client.delete("backups", "other").unwrap();
        refused(client.get("backups", "other"), 404, "NoSuchKey");
        refused(client.get("nowhere", "other"), 404, "NoSuchBucket");
        refused(client.put("nowhere", "other", "x"), 404, "NoSuchBucket");
        refused(client.list("nowhere", ""), 404, "NoSuchBucket");
        assert_eq!(client.list("backups", "").unwrap(), ["a/b/empty", "a/large"], "{kind:?}");
    }
}

#[test]
fn every_server_lists_in_pages() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let client = server.client();
        let keys: Vec<String> = (0..25).map(|i| format!("p/{:02}/object", i * 3 % 25)).collect();
        for key in &keys {
            client.put("backups", key, "x").unwrap();
        }
        let page = client.wait(client.sdk().list_objects_v2().bucket("backups").max_keys(10).send()).unwrap();
        assert_eq!((page.contents().len(), page.is_truncated), (10, Some(true)), "{kind:?}");
        let mut sorted = keys;
        sorted.sort();
        assert_eq!(client.list("backups", "p/").unwrap(), sorted, "{kind:?}");
    }
}

#[test]
fn every_server_checks_signatures() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let Credentials { access_key, secret_key } = server.credentials().clone();
        let wrong =
            Credentials { access_key: access_key.clone(), secret_key: secret_key.replace('s', "z").replace('0', "1") };
        refused(
            server.client_as(&server.url(), &wrong).put("backups", "key", "x"),
            403,
            match kind {
                Kind::Garage => "AccessDenied",
                _ => "SignatureDoesNotMatch",
            },
        );
        let stranger = Credentials { access_key: access_key.replace('c', "d"), secret_key };
        let refusal = server.client_as(&server.url(), &stranger).list("backups", "").unwrap_err();
        assert_eq!(refusal.status, Some(403), "{kind:?}: {refusal}");
        assert!(server.client().list("backups", "").unwrap().is_empty(), "{kind:?} stored what it had refused");
    }
}

#[test]
fn every_server_survives_a_stop() {
    for kind in Kind::all() {
        let mut server = with_bucket(kind);
        let url = server.url();
        server.client().put("backups", "key", "value").unwrap();
        let client = server.client();
        client.list("backups", "").unwrap();
        server.stop();
        cut(client.list("backups", ""));
        server.resume();
        assert_eq!(server.url(), url);
        assert_eq!(client.get("backups", "key").unwrap(), b"value", "{kind:?}");
    }
}

#[test]
fn objects_are_files_where_the_server_says_so() {
    for kind in [Kind::Rclone, Kind::S3s] {
        let server = with_bucket(kind);
        let client = server.client();
        client.put("backups", "some/key", "value").unwrap();
        let directory = server.directory("backups").unwrap();
        assert_eq!(std::fs::read(directory.join("some/key")).unwrap(), b"value");
        write_file(&directory.join("other"), "from behind");
        let listed = |keys: &[&str]| {
            wait_until(&format!("{kind:?} to list {keys:?}"), SOON, || client.list("backups", "").unwrap() == keys);
        };
        listed(&["other", "some/key"]);
        assert_eq!(client.get("backups", "other").unwrap(), b"from behind", "{kind:?}");
        std::fs::remove_file(directory.join("some/key")).unwrap();
        listed(&["other"]);
        refused(client.get("backups", "some/key"), 404, "NoSuchKey");
    }
}

#[test]
fn a_client_that_owes_nothing_to_ours_agrees() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        server.client().put("backups", "dir/key", content(100_000)).unwrap();
        let scratch = Scratch::new("s3cmd");
        let (access_key, secret_key) = (&server.credentials().access_key, &server.credentials().secret_key);
        let s3cmd = |args: &[&str]| {
            let mut command = TestUser::get().command("s3cmd");
            command.args(["--config", "/dev/null", "--no-ssl", "--no-progress", "--region", server.region()]);
            command.arg(format!("--access_key={access_key}")).arg(format!("--secret_key={secret_key}"));
            command.arg(format!("--host={}", server.address())).arg(format!("--host-bucket={}", server.address()));
            Output::of(command.args(args))
        };
        let copy = scratch.subdirectory("copy");
        s3cmd(&["sync", "s3://backups/", &format!("{}/", copy.display())]).ok();
        assert_eq!(std::fs::read(copy.join("dir/key")).unwrap(), content(100_000), "{kind:?}");
        write_file(&copy.join("back"), "again");
        s3cmd(&["sync", &format!("{}/", copy.display()), "s3://backups/again/"]).ok();
        assert_eq!(
            server.client().list("backups", "").unwrap(),
            ["again/back", "again/dir/key", "dir/key"],
            "{kind:?}"
        );
    }
}
