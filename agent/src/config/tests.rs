//! Configurations that are read, and those that are refused.

use walkeep_chunkstore::mirror::Durability;

use super::*;

fn load(text: &str) -> Result<Config> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(Some(file.path()))
}

#[test]
fn a_file_reads() {
    let config = load("[cluster]\npgdata = '/data'\n[repository]\npath = '/repo'\n[compression]\nlevel = 3").unwrap();
    assert_eq!(config.pgdata().unwrap(), Path::new("/data"));
    assert_eq!(config.repository_place().unwrap().to_string(), "/repo");
    assert_eq!((config.compression.level, config.cluster_name()), (3, "main"));
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let error = load("[cluster]\npgdta = '/data'").unwrap_err().to_string();
    assert!(error.contains("'cluster.pgdta', did you mean 'cluster.pgdata'?"), "{error}");
    let error = load("[clutser]\npgdata = '/data'").unwrap_err().to_string();
    assert!(error.contains("'clutser', did you mean 'cluster'?"), "{error}");
}

#[test]
fn a_wrong_value_names_its_key() {
    let error = load("[compression]\nlevel = 'high'").unwrap_err().to_string();
    assert!(error.contains("compression.level"), "{error}");
}

#[test]
fn a_bucket_and_its_mirrors_are_read() {
    let text = "[repository]\nurl = 's3://bucket/p'\n[mirror]\nendpoint = 'http://x'\n\
                [mirror2]\nurl = 's3://other'\nlocal_window = '7d'\n[limits]\nupload_rate = '2MiB'";
    let config = load(text).unwrap();
    assert_eq!(config.repository_place().unwrap().to_string(), "s3://bucket/p");
    let settings = config.bucket_settings().unwrap();
    assert_eq!((settings.endpoint(), settings.durability), ("http://x", Durability::Mirror));
    let mirrors = config.mirrors().unwrap();
    assert_eq!((mirrors.len(), mirrors[0].durability), (1, Durability::Local));
    assert_eq!(mirrors[0].local_window, Some(Duration::from_secs(7 * 86400)));
    assert_eq!(config.limits.upload_rate.map(ByteRate::bytes), Some(2 << 20));
}

#[test]
fn sizes_and_lengths_of_time_are_read() {
    let config = load("[schedule]\nmax_wal = '2 TiB'\nmax_age = '1w 2d'").unwrap();
    assert_eq!(config.schedule.max_wal.map(ByteCount::bytes), Some(2 << 40));
    let config = load("[schedule]\nmax_wal = 5000\n[limits]\nread_rate = '3 KiB/s'").unwrap();
    assert_eq!(config.schedule.max_wal.map(ByteCount::bytes), Some(5000));
    assert_eq!(config.limits.read_rate.map(ByteRate::bytes), Some(3072));
    assert!(load("[schedule]\nmax_wal = '3 KiB/s'").is_err());
    assert!(load("[schedule]\nmax_wal = 0").is_err());
    assert_eq!(length_of_time("k", "1w 2d").unwrap(), Duration::from_secs(9 * 86400));
    for wrong in ["", "7", "1 month", "-1h", "soon"] {
        let error = length_of_time("[schedule] max_age", wrong).unwrap_err().to_string();
        assert!(error.starts_with(&format!("[schedule] max_age '{wrong}' is no length of time")), "{error}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let error = load("[repository]\nurl = 'gs://bucket'").unwrap().repository_place().unwrap_err().to_string();
    assert!(error.contains("gs://"), "{error}");
    let error = load("[limits]\nupload_rate = 'fast'").unwrap_err().to_string();
    assert!(error.contains("limits.upload_rate"), "{error}");
    let error = load("[schedule]\nmax_wal = '50 gigabytes'").unwrap_err().to_string();
    assert!(error.contains("schedule.max_wal") && error.contains("like 50GiB"), "{error}");
    let error = load("[schedule]\nbase_backups = '0 3 * * *'").unwrap_err().to_string();
    assert!(error.contains("'schedule.base_backups', did you mean 'schedule.base_backup'?"), "{error}");
    let config = load("[repository]\npath = '/r'\n[mirror]\nurl = '/r'").unwrap();
    assert!(config.mirrors().unwrap_err().to_string().contains("repository itself"));
}

#[test]
fn a_stream_is_settled() {
    let settings = |text: &str| load(&format!("[stream]\n{text}")).unwrap().stream_settings();
    let usual = settings("").unwrap().unwrap();
    assert_eq!((usual.slot.as_ref().unwrap().as_str(), usual.application_name.as_str()), ("walkeep", "walkeep_async"));
    assert_eq!((usual.tail_interval, usual.synchronous, usual.standby), (Duration::from_secs(5), false, false));
    let other =
        settings("slot = 'of_mine'\nsynchronous = true\nstandby = true\ntail_interval = '2m'").unwrap().unwrap();
    assert_eq!((other.slot.as_ref().unwrap().as_str(), other.application_name.as_str()), ("of_mine", "walkeep"));
    assert_eq!((other.tail_interval, other.synchronous, other.standby), (Duration::from_secs(120), true, true));
    assert_eq!(settings("application_name = 'it'").unwrap().unwrap().application_name, "it");
    assert_eq!(settings("slot = ''").unwrap().unwrap().slot, None);
    // What is not used is not judged.
    assert_eq!(settings("enabled = false\nslot = 'No!'").unwrap(), None);
    for slot in ["Walkeep", "my-slot", "wal keep", "x'; --", &"x".repeat(64)] {
        let error = settings(&format!("slot = \"{slot}\"")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("[stream] slot '{slot}' is no replication slot name")), "{error}");
    }
    for (interval, problem) in [("0s", "is 0"), ("-1s", "is no length of time"), ("soon", "is no length of time")] {
        let error = settings(&format!("tail_interval = '{interval}'")).unwrap_err().to_string();
        assert!(error.starts_with("[stream] tail_interval") && error.contains(problem), "{error}");
    }
}
