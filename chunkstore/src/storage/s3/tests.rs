//! What the driver makes of answers that no well-behaved service gives.

use std::time::{Duration, Instant};

use super::fake::{Answer, Fake};
use super::{ConditionalWrites, S3Storage};
use crate::ErrorKind;
use crate::storage::{ObjectKey, Put, Storage};

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn conditional(fake: &Fake) -> S3Storage {
    let storage = fake.storage();
    storage.set_conditional_writes(true);
    storage
}

#[test]
fn a_broken_read_goes_on_where_it_stopped() {
    let fake = Fake::new([
        Answer::some_bytes("a", Some("bytes 2-9/20"), 8, b"012"),
        Answer::some_bytes("a", Some("bytes 5-9/20"), 5, b"34"),
        Answer::bytes("a", Some("bytes 7-9/20"), b"567"),
    ]);
    assert_eq!(fake.storage().get_range(&key("x"), 2..10).unwrap(), b"01234567");
    let requests = fake.requests();
    assert!(requests[0].contains("range: bytes=2-9\r\n") && !requests[0].contains("if-match"), "{}", requests[0]);
    assert!(requests[1].contains("range: bytes=5-9\r\n") && requests[1].contains("if-match: \"a\""), "{}", requests[1]);
    assert!(requests[2].contains("range: bytes=7-9\r\n"));
}

#[test]
fn a_read_never_mixes_two_objects() {
    let broken = || Answer::some_bytes("a", None, 8, b"012");
    let fake = Fake::new([broken(), Answer::error(412, "PreconditionFailed"), Answer::bytes("b", None, b"new")]);
    assert_eq!(fake.storage().get(&key("leases/x"), 100).unwrap(), b"new");
    let fake = Fake::new([
        Answer::some_bytes("a", Some("bytes 0-7/8"), 8, b"012"),
        Answer::bytes("b", Some("bytes 3-7/8"), b"34567"),
    ]);
    let error = fake.storage().get_range(&key("x"), 0..8).unwrap_err();
    assert_eq!(error.to_string(), "'s3://bucket/p/x' is damaged: it changed while it was read");
}

#[test]
fn a_whole_object_is_one_request_and_bounded() {
    let fake = Fake::new([Answer::bytes("a", None, b"12345")]);
    let storage = fake.storage();
    assert_eq!(storage.get(&key("x"), 5).unwrap(), b"12345");
    assert_eq!(fake.methods(), ["GET"]);
    assert_eq!(storage.get(&key("x"), 4).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!((storage.requests().of("GetObject"), storage.requests().total()), (2, 2));
}

#[test]
fn an_object_that_arrived_before_the_line_broke_is_stored() {
    for on in [false, true] {
        let fake = Fake::new([Answer::LosesAnswers(5)]);
        let storage = fake.storage();
        storage.set_conditional_writes(on);
        assert_eq!(storage.put_if_absent(&key("x"), b"12345").unwrap(), Put::Created, "{on}");
        assert_eq!(fake.methods().last().map(String::as_str), Some("HEAD"));
        assert_eq!(fake.requests()[0].contains("if-none-match: *"), on);
    }
    let fake = Fake::new([Answer::LosesAnswers(4)]);
    assert!(fake.impatient_storage().put_if_absent(&key("x"), b"12345").is_err(), "what is there has another size");
}

#[test]
fn an_own_object_that_is_in_the_way_was_created_all_the_same() {
    let refused = || Answer::error(412, "PreconditionFailed");
    let fake = Fake::new([refused(), Answer::Marked(5)]);
    assert_eq!(conditional(&fake).put_if_absent(&key("x"), b"12345").unwrap(), Put::Created);
}

#[test]
fn a_taken_name_is_left_alone() {
    let found = |size: usize| Answer::Says(200, "ETag: \"e\"\r\n".to_owned(), vec![b'x'; size]);
    let taken = |name: &str, size| {
        let fake = Fake::new([Answer::error(412, "PreconditionFailed"), found(size)]);
        conditional(&fake).put_if_absent(&key(name), b"12345")
    };
    assert_eq!(taken("clusters/a/identity/0001", 7).unwrap(), Put::AlreadyExists);
    assert_eq!(taken("packs/00/00", 5).unwrap(), Put::AlreadyExists);
    let error = taken("packs/00/00", 7).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("7 bytes are stored under this name, but its content has 5"), "{error}");
}

#[test]
fn objects_are_dressed_as_the_options_say() {
    let fake = Fake::new([Answer::stored()]);
    let storage = fake.storage_with(|options| {
        options.encryption = Some("aws:kms".to_owned());
        options.kms_key = Some("alias/x".to_owned());
        options.pack_class = Some("STANDARD_IA".to_owned());
        options.lock_days = Some(3);
    });
    storage.put_if_absent(&key("packs/00/00"), b"123456789").unwrap();
    storage.overwrite(&key("leases/backup/x"), b"123456789").unwrap();
    let requests = fake.requests();
    let hash = blake3::hash(b"123456789").to_hex();
    for header in [
        "x-amz-server-side-encryption: aws:kms\r\n",
        "x-amz-server-side-encryption-aws-kms-key-id: alias/x\r\n",
        "x-amz-storage-class: STANDARD_IA\r\n",
        "x-amz-object-lock-mode: GOVERNANCE\r\n",
        "x-amz-object-lock-retain-until-date: ",
        "x-amz-checksum-crc32c: 4waSgw==\r\n",
        "content-length: 9\r\n",
        &format!("x-amz-meta-walkeep-blake3: {hash}\r\n"),
    ] {
        assert!(requests[0].contains(header), "{header} {}", requests[0]);
    }
    assert!(requests[1].contains("aws:kms") && !requests[1].contains("object-lock"), "{}", requests[1]);
    assert!(!requests[1].contains("storage-class") && requests[1].starts_with("PUT /bucket/p/leases/backup/x"));
    fake.storage().put_if_absent(&key("x"), b"1").unwrap();
    let plain = &fake.requests()[2];
    assert!(
        !plain.contains("checksum") && !plain.contains("aws-chunked") && !plain.contains("if-none-match"),
        "{plain}"
    );
}

#[test]
fn large_objects_wait_in_a_file() {
    let fake = Fake::new([Answer::stored()]);
    let spool = tempfile::tempdir().unwrap();
    let store = |spool: &std::path::Path| {
        let storage = fake.storage().with_spool(spool.to_owned());
        let mut writer = storage.writer().unwrap();
        (0..9).try_for_each(|_| writer.write(&[7; 1 << 20]))?;
        writer.publish(&key("packs/00/00"))
    };
    assert_eq!(store(spool.path()).unwrap(), Put::Created);
    let hash = blake3::hash(&vec![7; 9 << 20]).to_hex();
    let head = &fake.requests()[0];
    assert!(head.contains("content-length: 9437184\r\n") && head.contains(hash.as_str()), "{head}");
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
    let error = store(&spool.path().join("missing")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn a_conflict_of_writers_is_tried_again() {
    let fake = Fake::new([Answer::error(409, "ConditionalRequestConflict"), Answer::status(404), Answer::stored()]);
    assert_eq!(conditional(&fake).put_if_absent(&key("x"), b"12345").unwrap(), Put::Created);
}

#[test]
fn a_service_that_says_yes_to_everything_is_no_s3() {
    let page = Answer::Says(200, "Content-Type: text/html\r\n".to_owned(), b"<html>hello</html>".to_vec());
    let fake = Fake::new([page]);
    let storage = fake.storage();
    let errors = [
        storage.put_if_absent(&key("x"), b"1").unwrap_err(),
        storage.size(&key("x")).unwrap_err(),
        storage.get(&key("x"), 100).unwrap_err(),
        storage.list("").unwrap_err(),
        storage.check().unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            (error.kind(), error.hint().is_some_and(|h| h.contains("not S3"))),
            (ErrorKind::Unreachable, true),
            "{error}"
        );
    }
}

#[test]
fn a_listing_ends_and_stays_below_its_prefix() {
    let fake = Fake::new([Answer::page(&["p/b", "p/.probe/x", "p/a/"], Some("1")), Answer::page(&["p/a/c"], None)]);
    let keys: Vec<_> = fake.storage().list("").unwrap().iter().map(|info| info.key.to_string()).collect();
    assert_eq!(keys, ["a/c", "b"]);
    let problem = |script: Vec<Answer>| fake_list(script).to_string();
    assert!(problem(vec![Answer::page(&["p/a"], Some("1"))]).contains("again and again"));
    assert!(problem(vec![Answer::page(&["q/a"], None)]).contains("outside the prefix"));
    let endless = Answer::Says(
        200,
        String::new(),
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>".into(),
    );
    assert!(problem(vec![endless]).contains("not where"));
}

fn fake_list(script: Vec<Answer>) -> crate::Error {
    Fake::new(script).storage().list("").unwrap_err()
}

#[test]
fn conditional_writes_are_believed_when_they_were_seen() {
    let head = |size: usize| Answer::Says(200, "ETag: \"e\"\r\n".to_owned(), vec![0; size]);
    let refused = || Answer::error(412, "PreconditionFailed");
    let probe = |script: Vec<Answer>| Fake::new(script).storage().probe_conditional_writes().unwrap();
    let gone = || Answer::status(204);
    assert_eq!(probe(vec![Answer::stored(), refused(), head(5), gone()]), ConditionalWrites::Proven);
    assert_eq!(probe(vec![Answer::stored(), Answer::stored(), head(10), gone()]), ConditionalWrites::Overwrites);
    assert_eq!(probe(vec![Answer::stored(), refused(), head(10), gone()]), ConditionalWrites::Lies);
    assert_eq!(probe(vec![Answer::error(501, "NotImplemented"), Answer::stored(), gone()]), ConditionalWrites::Refused);
    let forbidden = Answer::error(403, "AccessDenied");
    assert_eq!(probe(vec![Answer::stored(), refused(), head(5), forbidden]), ConditionalWrites::Proven);
}

#[test]
fn a_dead_service_is_given_up_in_time() {
    for answer in [Answer::Stalls, Answer::HangsUp, Answer::error(503, "SlowDown")] {
        let fake = Fake::new([answer]);
        let (storage, started) = (fake.impatient_storage(), Instant::now());
        assert_eq!(storage.get(&key("x"), 9).unwrap_err().kind(), ErrorKind::Unreachable);
        assert_eq!(storage.put_if_absent(&key("x"), b"1").unwrap_err().kind(), ErrorKind::Unreachable);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[test]
fn overload_that_passes_is_waited_out() {
    let slow = || Answer::error(503, "SlowDown");
    let fake = Fake::new([slow(), slow(), Answer::error(500, "InternalError"), Answer::bytes("a", None, b"x")]);
    assert_eq!(fake.storage().get(&key("x"), 9).unwrap(), b"x");
    assert_eq!(fake.requests().len(), 4);
}

#[test]
fn refusals_say_what_to_do() {
    let told = |answer: Answer| {
        let error = Fake::new([answer]).storage().check().unwrap_err();
        (error.kind(), format!("{error}; {}", error.hint().unwrap_or("no hint")))
    };
    let skew = "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message><RequestTime>1</RequestTime>\
                <ServerTime>2</ServerTime></Error>";
    let region =
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu-west-3</Region></Error>";
    let says = |status, text: &str| Answer::Says(status, String::new(), text.as_bytes().to_vec());
    for (answer, kind, words) in [
        (Answer::error(403, "InvalidAccessKeyId"), ErrorKind::Unreachable, "AWS_ACCESS_KEY_ID"),
        (Answer::error(403, "SignatureDoesNotMatch"), ErrorKind::Unreachable, "AWS_SECRET_ACCESS_KEY"),
        (Answer::error(403, "AccessDenied"), ErrorKind::Unreachable, "s3:PutObject"),
        (Answer::error(400, "ExpiredToken"), ErrorKind::Unreachable, "AWS_SESSION_TOKEN"),
        (Answer::error(404, "NoSuchBucket"), ErrorKind::Unreachable, "--create-bucket"),
        (Answer::error(507, "XMinioStorageFull"), ErrorKind::Full, "free space"),
        (Answer::error(403, "QuotaExceeded"), ErrorKind::Full, "quota"),
        (Answer::status(403), ErrorKind::Unreachable, "s3:ListBucket"),
        (says(403, skew), ErrorKind::Unreachable, "this machine's time 1, the service's 2"),
        (says(400, region), ErrorKind::Unreachable, "region eu-west-3"),
        (says(404, "<html>nothing</html>"), ErrorKind::Unreachable, "not S3"),
    ] {
        let (told_kind, text) = told(answer);
        assert!(told_kind == kind && text.contains(words), "{told_kind:?} {text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn a_head_without_a_reason_asks_for_it() {
    let fake = Fake::new([Answer::status(403), Answer::error(403, "InvalidAccessKeyId")]);
    let error = fake.storage().size(&key("x")).unwrap_err();
    assert!(error.to_string().contains("InvalidAccessKeyId"), "{error}");
}

#[test]
fn nobody_listens() {
    let url = crate::storage::BucketUrl { bucket: "bucket".to_owned(), prefix: String::new() };
    let open = |endpoint: &str| {
        let options = crate::storage::S3Options { endpoint: Some(endpoint.to_owned()), ..Default::default() };
        S3Storage::open(&url, &options).unwrap()
    };
    let started = Instant::now();
    let error = open("http://127.0.0.1:1").check().unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("port")), "{error}");
    let error = open("http://nowhere.invalid").check().unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("host name")), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
