//! How servers differ: conditional writes, rights, regions, TLS, names, quotas.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{Delete, ObjectIdentifier, ObjectLockMode};
use walkeep_pg_integration::s3::{
    Attempt, Client, Conditional, Credentials, Kind, Policy, Refusal, Rights, S3Server, S3sOptions,
};

use super::{MIB, content, cut, refused, with_bucket};

/// What happens to a key that is written twice with `If-None-Match: *`: the second answer, and what is there then.
fn written_twice(client: &Client) -> (Option<u16>, Vec<u8>) {
    client.put_if_absent("backups", "once", "first").expect("a new key is not there");
    let second = client.put_if_absent("backups", "once", "second").map_or_else(|e| e.status, |()| Some(200));
    (second, client.get("backups", "once").expect("it was written"))
}

#[test]
fn conditional_writes_are_honoured_ignored_or_lied_about() {
    let of = |conditional| {
        let server = S3Server::s3s(S3sOptions::default().conditional(conditional));
        server.create_bucket("backups");
        written_twice(&server.client())
    };
    assert_eq!(of(Conditional::Honoured), (Some(412), b"first".to_vec()));
    assert_eq!(of(Conditional::Ignored), (Some(200), b"second".to_vec()));
    assert_eq!(of(Conditional::Lied), (Some(412), b"second".to_vec()));
    for kind in Kind::all() {
        let expected = match kind {
            Kind::S3s => (Some(412), b"first".to_vec()),
            Kind::Rclone | Kind::Garage => (Some(200), b"second".to_vec()),
        };
        assert_eq!(written_twice(&with_bucket(kind).client()), expected, "{kind:?}");
    }
    let server = S3Server::s3s(S3sOptions::default().conditional(Conditional::NotImplemented));
    server.create_bucket("backups");
    refused(server.client().put_if_absent("backups", "once", "first"), 501, "NotImplemented");
    refused(server.client().get("backups", "once"), 404, "NoSuchKey");
}

#[test]
fn of_many_conditional_writers_one_wins() {
    let server = with_bucket(Kind::S3s);
    for round in 0..5 {
        let key = format!("round-{round}");
        let outcomes: Vec<Result<(), Refusal>> = std::thread::scope(|scope| {
            let write = |i: u8| server.client().put_if_absent("backups", &key, vec![i; MIB]);
            let threads: Vec<_> = (0..6).map(|i| scope.spawn(move || write(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..6).filter(|i| outcomes[*i].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(server.client().get("backups", &key).unwrap(), vec![winners[0] as u8; MIB]);
        assert!(outcomes.iter().all(|o| o.as_ref().map_or_else(|e| e.status == Some(412), |()| true)), "{outcomes:?}");
    }
}

#[test]
fn a_policy_decides_who_may_do_what() {
    let reader = Credentials::named("a-mere-reader");
    let name = reader.access_key.clone();
    let policy = move |attempt: &Attempt| {
        let reads = match attempt.operation.as_str() {
            "GetObject" => attempt.key.as_deref().is_some_and(|key| key.starts_with("main/")),
            "ListObjectsV2" => attempt.prefix.as_deref() == Some("main/wal/"),
            _ => false,
        };
        attempt.access_key != name || (attempt.bucket.as_deref() == Some("backups") && reads)
    };
    let server = S3Server::s3s(S3sOptions::default().user(reader.clone()).policy(policy));
    server.create_bucket("backups");
    let (all, client) = (server.client(), server.client_as(&server.url(), &reader));
    all.put("backups", "main/wal/1", "x").unwrap();
    all.put("backups", "others", "x").unwrap();
    assert_eq!(client.get("backups", "main/wal/1").unwrap(), b"x");
    assert_eq!(client.list("backups", "main/wal/").unwrap(), ["main/wal/1"]);
    refused(client.get("backups", "others"), 403, "AccessDenied");
    refused(client.list("backups", "main/"), 403, "AccessDenied");
    refused(client.put("backups", "main/new", "x"), 403, "AccessDenied");
    refused(client.delete("backups", "main/wal/1"), 403, "AccessDenied");
    assert_eq!(all.list("backups", "").unwrap(), ["main/wal/1", "others"]);
}

#[test]
fn keys_have_rights_and_buckets_have_quotas_where_there_is_garage() {
    if !Kind::all().contains(&Kind::Garage) {
        eprintln!("no Garage in this run: WALKEEP_FULL=1 has it");
        return;
    }
    let server = with_bucket(Kind::Garage);
    let (all, garage) = (server.client(), server.as_garage());
    all.put("backups", "key", "value").unwrap();
    let holding = |rights| server.client_as(&server.url(), &garage.key_for("backups", rights));
    let (reader, writer, both) = (holding(Rights::Read), holding(Rights::Write), holding(Rights::ReadWrite));
    assert_eq!(reader.get("backups", "key").unwrap(), b"value");
    refused(reader.put("backups", "key", "x"), 403, "AccessDenied");
    refused(reader.delete("backups", "key"), 403, "AccessDenied");
    writer.put("backups", "written", "x").unwrap();
    refused(writer.get("backups", "written"), 403, "AccessDenied");
    both.delete("backups", "written").unwrap();
    assert_eq!(both.list("backups", "").unwrap(), ["key"]);

    garage.quota("backups", 3 * MIB as u64);
    both.put("backups", "small", content(2 * MIB)).unwrap();
    let refusal = both.put("backups", "large", content(2 * MIB)).unwrap_err();
    assert!(refusal.status == Some(403) && refusal.text.contains("quota"), "{refusal}");
    assert_eq!(both.list("backups", "").unwrap(), ["key", "small"]);
    let elsewhere = Client::new(&server.url(), "us-east-1", server.credentials(), None);
    refused(elsewhere.list("backups", ""), 400, "AuthorizationHeaderMalformed");
}

#[test]
fn a_region_is_insisted_on() {
    let server = S3Server::s3s(S3sOptions::default().region("eu-central-1"));
    server.create_bucket("backups");
    let elsewhere = Client::new(&server.url(), "us-east-1", server.credentials(), None);
    refused(elsewhere.list("backups", ""), 400, "AuthorizationHeaderMalformed");
}

#[test]
fn https_works_with_its_own_authority_only() {
    let server = S3Server::s3s(S3sOptions::default().https());
    server.create_bucket("backups");
    server.client().put("backups", "key", "value").unwrap();
    assert!(server.url().starts_with("https://"));
    let foreign = S3Server::s3s(S3sOptions::default().https());
    let said =
        cut(Client::new(&server.url(), server.region(), server.credentials(), foreign.ca()).get("backups", "key"));
    assert!(said.contains("UnknownIssuer") || said.contains("BadSignature"), "{said}");
    let plain = server.url().replace("https", "http");
    cut(Client::new(&plain, server.region(), server.credentials(), None).get("backups", "key"));
}

#[test]
fn a_bucket_can_be_a_host() {
    let server = S3Server::s3s(S3sOptions::default().https());
    server.create_bucket("backups");
    let client = server.client().virtual_hosts(&server);
    client.put("backups", "backups/key", "value").unwrap();
    assert_eq!(client.list("backups", "").unwrap(), ["backups/key"]);
    assert_eq!(server.client().get("backups", "backups/key").unwrap(), b"value");
    refused(client.list("nowhere", ""), 404, "NoSuchBucket");
}

#[test]
fn odd_bucket_names_and_multipart_uploads_are_there() {
    let server = S3Server::start(Kind::S3s);
    for bucket in ["with.dots", "with_underscore"] {
        server.create_bucket(bucket);
        server.client().put(bucket, "key", "value").unwrap();
        assert_eq!(server.client().list(bucket, "").unwrap(), ["key"]);
    }
    let client = server.client();
    let (sdk, bucket) = (client.sdk(), "with.dots");
    let open = || client.wait(sdk.list_multipart_uploads().bucket(bucket).send()).unwrap().uploads().len();
    let create = sdk.create_multipart_upload().bucket(bucket).key("parts").storage_class("GLACIER_IR".into());
    let id = client.wait(create.send()).unwrap().upload_id.unwrap();
    let part = sdk.upload_part().bucket(bucket).key("parts").upload_id(&id).part_number(1);
    client.wait(part.body(content(5 * MIB).into()).send()).unwrap();
    assert_eq!(open(), 1);
    client.wait(sdk.abort_multipart_upload().bucket(bucket).key("parts").upload_id(&id).send()).unwrap();
    assert_eq!(open(), 0);
}

#[test]
fn documents_of_ours_grant_what_their_reader_needs() {
    let document = include_str!("../../../../../deploy/s3-policy-restorer.json");
    let reader = Credentials::named("the-restorer");
    let (name, granted) = (reader.access_key.clone(), Policy::parse(&[document], "backups", "pg/main"));
    let policy = move |attempt: &Attempt| attempt.access_key != name || granted.allows(attempt);
    let server = S3Server::s3s(S3sOptions::default().user(reader.clone()).policy(policy));
    server.create_bucket("backups");
    let (all, client) = (server.client(), server.client_as(&server.url(), &reader));
    all.put("backups", "pg/main/walkeep.json", "{}").unwrap();
    all.put("backups", "pg/other/walkeep.json", "{}").unwrap();
    assert_eq!(client.get("backups", "pg/main/walkeep.json").unwrap(), b"{}");
    assert_eq!(client.list("backups", "pg/main/").unwrap(), ["pg/main/walkeep.json"]);
    refused(client.get("backups", "pg/other/walkeep.json"), 403, "AccessDenied");
    refused(client.list("backups", "pg/"), 403, "AccessDenied");
    refused(client.put("backups", "pg/main/walkeep.json", "x"), 403, "AccessDenied");
    let objects = ["pg/main/walkeep.json"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    refused(
        client.wait(client.sdk().delete_objects().bucket("backups").delete(delete.clone()).send()),
        403,
        "AccessDenied",
    );
    all.wait(all.sdk().delete_objects().bucket("backups").delete(delete).send()).unwrap();
    assert_eq!(all.list("backups", "").unwrap(), ["pg/other/walkeep.json"]);
}

#[test]
fn locks_are_remembered_where_a_bucket_has_them() {
    let server = S3Server::start(Kind::S3s);
    let client = server.client();
    let sdk = client.sdk();
    client.wait(sdk.create_bucket().bucket("locked").object_lock_enabled_for_bucket(true).send()).unwrap();
    server.create_bucket("ordinary");
    let until = SystemTime::now() + Duration::from_secs(3600);
    let put = |bucket: &str| {
        let request = sdk.put_object().bucket(bucket).key("key").body(b"123456789".to_vec().into());
        request.object_lock_mode(ObjectLockMode::Governance).object_lock_retain_until_date(until.into())
    };
    refused(client.wait(put("locked").send()), 400, "InvalidRequest");
    refused(client.wait(put("ordinary").checksum_crc32_c("4waSgw==").send()), 400, "InvalidRequest");
    assert!(server.retention("locked", "key").is_none());
    client.wait(put("locked").checksum_crc32_c("4waSgw==").send()).unwrap();
    let retention = server.retention("locked", "key").unwrap();
    assert_eq!(retention.mode, "GOVERNANCE");
    assert!(until.duration_since(retention.until).unwrap_or_default() < Duration::from_secs(2), "{retention:?}");
}
