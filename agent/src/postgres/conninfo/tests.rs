//! The whole way from text, files and environment to a `Conninfo`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::postgres::tls::SslMode;

fn environment() -> Environment {
    Environment::default().with_user("account").with_socket_directories(vec!["/nowhere/run".into()])
}

fn resolved(text: &str) -> Conninfo {
    Conninfo::resolve_in(text, &environment()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> ConninfoError {
    Conninfo::resolve_in(text, &environment()).map(drop).expect_err(text)
}

fn shown_hosts(conninfo: &Conninfo) -> Vec<String> {
    conninfo.hosts.iter().map(ToString::to_string).collect()
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// The password for each host as text.
fn passwords(conninfo: &Conninfo) -> Vec<Option<String>> {
    let text = |password: Password| String::from_utf8(password.as_bytes().to_vec()).unwrap();
    conninfo.hosts.iter().map(|host| conninfo.password_for(host).map(text)).collect()
}

#[test]
fn defaults_are_libpqs_except_for_timeouts() {
    let conninfo = resolved("");
    assert_eq!((conninfo.user.as_str(), conninfo.database.as_str()), ("account", "account"));
    assert_eq!(shown_hosts(&conninfo), ["socket '/nowhere/run/.s.PGSQL.5432'"]);
    assert_eq!((conninfo.application_name.as_ref(), conninfo.options.as_ref()), (None, None));
    assert_eq!(conninfo.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!(conninfo.target_session_attributes, TargetSessionAttributes::Any);
    assert_eq!(conninfo.load_balance_hosts, LoadBalanceHosts::Disable);
    assert_eq!(conninfo.channel_binding, ChannelBinding::Prefer);
    assert_eq!(conninfo.tls.mode, SslMode::Prefer);
    assert_eq!(passwords(&conninfo), [None]);
    // Empty values are defaults too, and the database follows the user that is given.
    let conninfo = resolved("user='' dbname='' password='' host='' application_name='' options=''");
    assert_eq!((conninfo.user.as_str(), conninfo.database.as_str()), ("account", "account"));
    assert_eq!(resolved("user=u").database, "u");
    assert_eq!(Conninfo::resolve_in("", &Environment::default()).map(drop), Err(ConninfoError::NoUser));
    assert!(Conninfo::resolve_in("user=u", &Environment::default()).is_ok());
}

#[test]
fn both_forms_say_the_same() {
    let words = resolved(
        "host=a,b port=1,2 user=u password=p dbname=d application_name=n options='-c x=y' connect_timeout=3 \
         target_session_attrs=prefer-standby load_balance_hosts=random channel_binding=require",
    );
    let uri = resolved(
        "postgresql://u:p@a:1,b:2/d?application_name=n&options=-c%20x%3Dy&connect_timeout=3\
         &target_session_attrs=prefer-standby&load_balance_hosts=random&channel_binding=require",
    );
    for conninfo in [&words, &uri] {
        assert_eq!(shown_hosts(conninfo), ["'a' port 1", "'b' port 2"]);
        assert_eq!((conninfo.user.as_str(), conninfo.database.as_str()), ("u", "d"));
        assert_eq!(passwords(conninfo), [Some("p".to_owned()), Some("p".to_owned())]);
        assert_eq!((conninfo.application_name.as_deref(), conninfo.options.as_deref()), (Some("n"), Some("-c x=y")));
        assert_eq!(conninfo.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(conninfo.target_session_attributes, TargetSessionAttributes::PreferStandby);
        assert_eq!(conninfo.load_balance_hosts, LoadBalanceHosts::Random);
        assert_eq!(conninfo.channel_binding, ChannelBinding::Require);
    }
    assert_eq!(format!("{words:?}"), format!("{uri:?}"));
}

#[test]
fn the_string_wins_over_the_service_and_that_over_the_environment() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".pg_service.conf"), "[s]\nuser=service\ndbname=service\nport=7\n").unwrap();
    let environment = environment()
        .with_home(home.path())
        .with_variable("PGUSER", "variable")
        .with_variable("PGDATABASE", "variable")
        .with_variable("PGHOST", "variable")
        .with_variable("PGAPPNAME", "variable");
    let conninfo = Conninfo::resolve_in("service=s user=string", &environment).unwrap();
    assert_eq!((conninfo.user.as_str(), conninfo.database.as_str()), ("string", "service"));
    assert_eq!(shown_hosts(&conninfo), ["'variable' port 7"]);
    assert_eq!(conninfo.application_name.as_deref(), Some("variable"));
    // An empty value is said, too: it keeps the environment out.
    let conninfo = Conninfo::resolve_in("service=s host='' application_name=''", &environment).unwrap();
    assert_eq!(shown_hosts(&conninfo), ["socket '/nowhere/run/.s.PGSQL.7'"]);
    assert_eq!(conninfo.application_name, None);
    // Nothing between '//' and '/' says nothing.
    let conninfo = Conninfo::resolve_in("postgresql:///", &environment).unwrap();
    assert_eq!((shown_hosts(&conninfo)[0].as_str(), conninfo.database.as_str()), ("'variable' port 5432", "variable"));
    // The service itself may come from the environment; later words win within the string.
    let conninfo = Conninfo::resolve_in("user=one user=two", &environment.with_variable("PGSERVICE", "s")).unwrap();
    assert_eq!((conninfo.user.as_str(), conninfo.database.as_str()), ("two", "service"));
}

#[test]
fn every_variable_of_libpq_is_read() {
    let before = format!("{:?}", Conninfo::resolve_in("", &environment().with_home("/home/u")).unwrap());
    for (variable, value, part) in [
        ("PGHOST", "h", "name: Some(\"h\")"),
        ("PGHOSTADDR", "10.0.0.9", "10.0.0.9"),
        ("PGPORT", "7", "port: 7"),
        ("PGUSER", "r", "user: \"r\""),
        ("PGDATABASE", "d", "database: \"d\""),
        ("PGAPPNAME", "n", "application_name: Some(\"n\")"),
        ("PGOPTIONS", "-c x=y", "options: Some(\"-c x=y\")"),
        ("PGCONNECT_TIMEOUT", "4", "connect_timeout: Some(4s)"),
        ("PGTARGETSESSIONATTRS", "read-write", "ReadWrite"),
        ("PGLOADBALANCEHOSTS", "random", "Random"),
        ("PGCHANNELBINDING", "require", "channel_binding: Require"),
        ("PGREQUIREAUTH", "!password", "AllowedAuthentication { refused: [Password]"),
        ("PGSSLMODE", "verify-ca", "mode: VerifyCa"),
        ("PGREQUIRESSL", "1", "mode: Require"),
        ("PGSSLROOTCERT", "/r", "\"/r\""),
        ("PGSSLCERT", "/c", "\"/c\""),
        ("PGSSLKEY", "/k", "\"/k\""),
        ("PGSSLCRL", "/l", "\"/l\""),
        ("PGSSLSNI", "0", "server_name_indication: false"),
        ("PGSSLCERTMODE", "disable", "certificate: None"),
        ("PGSSLMINPROTOCOLVERSION", "TLSv1.3", "minimum: V1_3"),
        ("PGSSLMAXPROTOCOLVERSION", "TLSv1.2", "maximum: V1_2"),
    ] {
        let environment = environment().with_home("/home/u").with_variable(variable, value);
        let text = format!("{:?}", Conninfo::resolve_in("", &environment).unwrap());
        assert!(text.contains(part), "{variable}: {text}");
        assert!(!before.contains(part), "{variable}");
    }
    let direct = environment().with_variable("PGSSLNEGOTIATION", "direct");
    assert!(format!("{:?}", Conninfo::resolve_in("sslmode=require", &direct)).contains("negotiation: Direct"));
    let mode = environment().with_variable("PGSSLMODE", "allow").with_variable("PGREQUIRESSL", "1");
    assert_eq!(Conninfo::resolve_in("", &mode).unwrap().tls.mode, SslMode::Allow);
}

#[test]
fn passwords_come_from_the_string_the_variable_or_the_file() {
    let home = tempfile::tempdir().unwrap();
    let lines =
        "a:1:d:u:one\nlocalhost:*:d:u:local\n10.0.0.9:*:*:*:address\nc:*:replication:u:walsender\nempty:*:*:*:\n";
    write_private(&home.path().join(".pgpass"), lines);
    let environment = environment().with_home(home.path());
    let of = |text: &str, environment: &Environment| {
        passwords(&Conninfo::resolve_in(&format!("user=u dbname=d {text}"), environment).unwrap())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of("host=a,b,c port=1", &environment), [some("one"), None, some("walsender")]);
    assert_eq!(of("", &environment), [some("local")]);
    assert_eq!(of("host=/nowhere/run", &environment), [some("local")]);
    assert_eq!(of("host=/else/where", &environment), [None]);
    assert_eq!(of("hostaddr=10.0.0.9", &environment), [some("address")]);
    assert_eq!(of("host=b hostaddr=10.0.0.9", &environment), [None]);
    assert_eq!(of("host=empty", &environment), [None]);
    assert_eq!(of("host=a port=1 password=word", &environment), [some("word")]);
    let variable = environment.clone().with_variable("PGPASSWORD", "variable");
    assert_eq!(of("host=a port=1", &variable), [some("variable")]);
    assert_eq!(of("host=a port=1 password=word", &variable), [some("word")]);

    let other = home.path().join("other");
    write_private(&other, "*:*:*:*:other");
    let passfile = quote(&other.display().to_string());
    assert_eq!(of(&format!("host=a port=1 passfile={passfile}"), &environment), [some("other")]);
    let variable = environment.with_variable("PGPASSFILE", other.as_os_str());
    assert_eq!(of("host=a port=1", &variable), [some("other")]);
    assert_eq!(of("host=a port=1 passfile=''", &variable), [some("one")]);

    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o644)).unwrap();
    let conninfo = Conninfo::resolve_in("user=u", &variable).unwrap();
    assert_eq!(passwords(&conninfo), [None]);
    assert!(conninfo.warnings[0].contains("is not used"), "{:?}", conninfo.warnings);
    // Nobody asks for the file when the password is known.
    assert!(Conninfo::resolve_in("user=u password=p", &variable).unwrap().warnings.is_empty());
}

#[test]
fn secrets_are_never_shown() {
    let home = tempfile::tempdir().unwrap();
    write_private(&home.path().join(".pgpass"), "*:*:*:*:sesame");
    let environment = environment().with_home(home.path());
    for text in ["user=u", "user=u password=sesame", "postgresql://u:sesame@h"] {
        let conninfo = Conninfo::resolve_in(text, &environment).unwrap();
        assert!(passwords(&conninfo)[0].as_deref() == Some("sesame"));
        assert!(!format!("{conninfo:?}").contains("sesame"), "{conninfo:?}");
    }
    for text in [
        "password=open sesame=x",
        "password=open sesame",
        "password='sesame",
        "password=sesame\0",
        "sslpassword=sesame",
        "scram_client_key=sesame",
        "dbname='postgresql://u:sesame@h'",
        "dbname='host=h password=sesame x'",
        "postgresql://u:open/sesame@h",
        "postgresql://u:open@sesame@h",
        "postgresql://h?password=sesame&x",
    ] {
        let error = refused(text);
        assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
    }
}

#[test]
fn unknown_parameters_name_the_nearest() {
    for (text, part) in [
        ("hots=x", "did you mean 'host'?"),
        ("postgresql://h?sslmod=require", "did you mean 'sslmode'?"),
        ("target_session_attributes=any", "did you mean 'target_session_attrs'?"),
        ("database=x", "'database'"),
        ("HOST=x", "'HOST'"),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=x", "there is no such parameter"),
    ] {
        let error = refused(text).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_not_supported_is_refused_or_harmless() {
    for text in [
        "replication=true",
        "requirepeer=postgres",
        "sslcrldir=/x",
        "sslpassword=x",
        "scram_server_key=x",
        "gssencmode=require",
        "min_protocol_version=3.2",
        "sslcertmode=require",
        "ssl_max_protocol_version=TLSv1",
    ] {
        let error = refused(text);
        assert!(matches!(error, ConninfoError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("the connection string"), "{error}");
    }
    let variable = environment().with_variable("PGREQUIREPEER", "postgres");
    let error = Conninfo::resolve_in("", &variable).map(drop).unwrap_err().to_string();
    assert!(error.contains("PGREQUIREPEER"), "{error}");
    resolved(
        "client_encoding=LATIN1 sslcompression=1 max_protocol_version=latest krbsrvname=x gsslib=x gssdelegation=1 \
         oauth_issuer=x oauth_client_id=x oauth_client_secret=x oauth_scope=x sslkeylogfile=/x \
         min_protocol_version=3.0 replication='' requirepeer='' gssencmode=prefer",
    );
    for text in [
        "connect_timeout=soon",
        "connect_timeout=''",
        "target_session_attrs=master",
        "target_session_attrs=''",
        "load_balance_hosts=yes",
        "channel_binding=on",
        "require_auth=kerberos",
        "application_name='a\0b'",
    ] {
        refused(text);
    }
    let broken = OsString::from_vec(b"\xff".to_vec());
    let environment = environment().with_variable("PGUSER", broken);
    let error = Conninfo::resolve_in("", &environment).map(drop).unwrap_err();
    assert_eq!(error, ConninfoError::VariableNotText("PGUSER"));
    assert!(Conninfo::resolve_in("user=u", &environment).is_ok());
}

#[test]
fn timeouts_of_zero_and_less_wait_for_ever() {
    for (text, expected) in [("0", None), ("-1", None), ("1", Some(1)), (" 7 ", Some(7))] {
        let conninfo = resolved(&format!("connect_timeout='{text}'"));
        assert_eq!(conninfo.connect_timeout, expected.map(Duration::from_secs), "{text}");
    }
}

#[test]
fn database_names_may_contain_an_equals_sign() {
    assert_eq!(resolved("dbname='a=b'").database, "a=b");
    refused("dbname='host=b'");
    refused("postgresql:///host%20%3Db");
    let variable = environment().with_variable("PGDATABASE", "postgresql://u:sesame@h");
    let error = Conninfo::resolve_in("", &variable).map(drop).unwrap_err().to_string();
    assert!(error.contains("PGDATABASE") && !error.contains("sesame"), "{error}");
}

#[test]
fn the_fallback_name_is_used_when_there_is_no_other() {
    assert_eq!(resolved("fallback_application_name=f").application_name.as_deref(), Some("f"));
    assert_eq!(resolved("fallback_application_name=f application_name=a").application_name.as_deref(), Some("a"));
}

#[test]
fn hosts_are_tried_in_any_order_when_asked_for() {
    let names = |conninfo: &Conninfo, seed| -> String {
        conninfo.hosts_to_try(seed).iter().filter_map(|host| host.name.clone()).collect()
    };
    assert_eq!(names(&resolved("host=a,b,c"), 1), "abc");
    let conninfo = resolved("host=a,b,c load_balance_hosts=random");
    let orders: BTreeSet<String> = (0..100).map(|seed| names(&conninfo, seed)).collect();
    assert_eq!(orders.len(), 6, "{orders:?}");
}

#[test]
fn the_process_has_an_environment() {
    // Whatever surrounds the test, a complete string needs none of it.
    let text = "host=h hostaddr=10.0.0.9 port=7 user=u password=p dbname=d sslmode=disable";
    let conninfo = Conninfo::resolve_in(text, &Environment::of_process()).unwrap();
    assert_eq!(shown_hosts(&conninfo), ["'h' (10.0.0.9) port 7"]);
}

proptest! {
    #[test]
    fn quoted_values_arrive(user in "[^\0]+", database in "[^\0=]+", password in "[^\0]+") {
        prop_assume!(!database.starts_with("postgres"));
        let text = format!("user={} dbname={} password={}", quote(&user), quote(&database), quote(&password));
        let conninfo = resolved(&text);
        prop_assert_eq!(passwords(&conninfo), vec![Some(password)]);
        prop_assert_eq!((conninfo.user, conninfo.database), (user, database));
    }

    #[test]
    fn any_text_is_resolved_or_refused(
        text in any::<String>(),
        list in "(host|port|hostaddr|require_auth|sslmode|connect_timeout)='[a0,:/@!%. -]*'",
        uri in r"postgresql://[a0:/@,?&=%\[\]]*",
    ) {
        for text in [text, list, uri] {
            let _ = Conninfo::resolve_in(&text, &environment());
        }
    }
}
