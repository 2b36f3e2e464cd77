//! docs/faq.md and docs/errors.md: the messages that they explain can be met.

use std::fs;

use walkeep_pg_integration::documents::repository_root;

use super::sources;

/// The messages in the first column of the tables of a page. `…` stands for what differs.
fn quoted(page: &str) -> Vec<String> {
    let text = fs::read_to_string(repository_root().join(page)).expect("the page is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once(" | ")?.0.strip_suffix('`')?.to_owned())).collect()
}

/// Texts where a message can come from: one for each source file of the programs.
fn programs() -> Vec<String> {
    let mut files = Vec::new();
    for place in ["proto/src", "chunkstore/src", "agent/src", "restore-tool/src"] {
        sources(&repository_root().join(place), &mut files);
    }
    // A literal that goes on in the next line has a backslash at the end.
    let joined = |text: String| text.split("\\\n").map(str::trim_start).collect::<String>();
    files.iter().map(|path| joined(fs::read_to_string(path).expect("a source can be read"))).collect()
}

/// Whether a message stands in one text: all its parts between the ellipses, each at least a word.
fn stands_in(message: &str, text: &str) -> bool {
    let parts =
        message.split('…').flat_map(|part| part.split("''")).map(|part| part.trim_matches([' ', '\'', ':', '.']));
    parts.filter(|part| part.len() > 2).all(|part| text.contains(part))
}

/// Messages of docs/errors.md that are the server's, the system's or a service's, or that the programs put together from parts
/// of a word or two.
const OF_OTHERS: [&str; 18] = [
    "wal_level is minimal: …",
    "no pg_hba.conf entry for replication connection …",
    "must be superuser or replication role …",
    "permission denied to start WAL sender",
    "number of requested standby connections exceeds max_wal_senders …",
    "remaining connection slots are reserved …",
    "synchronous_commit: local for …",
    "off for …",
    "… revocation list file '…'",
    "[stream] tail_interval …",
    "no space left on device",
    "answer 403 InvalidAccessKeyId",
    "answer 403 AccessDenied",
    "answer 507",
    "answer 503",
    "answer 500",
    "… Connection refused … (https://…)",
    "answer 200 is none of S3",
];

/// How many of a message's pairs of words, and words that stand alone, the programs have, and of how many. Its parts are put
/// together from several places, with names and numbers in between, so it stands nowhere as a whole.
fn known_pairs(message: &str, programs: &str) -> (usize, usize) {
    let mut found = (0, 0);
    for part in message.split('…').flat_map(|part| part.split("''")).flat_map(|part| part.split([':', ';'])) {
        let words: Vec<String> = part
            .split_whitespace()
            .map(|word| word.trim_matches(['\'', '"', '(', ')', ',', '.', '[', ']']).to_lowercase())
            .collect();
        let alone = (words.len() == 1 && words[0].len() > 2).then(|| words[0].clone());
        let pairs = words.windows(2).filter(|pair| pair.iter().all(|word| !word.is_empty())).map(|pair| pair.join(" "));
        for text in pairs.chain(alone) {
            found = (found.0 + usize::from(programs.contains(&text)), found.1 + 1);
        }
    }
    found
}

/// Whether the programs could say a message: they have two thirds of it.
fn could_be_said(message: &str, programs: &str) -> bool {
    let (known, all) = known_pairs(message, programs);
    known * 3 >= all * 2
}

#[test]
fn every_explained_message_could_be_said() {
    let text = fs::read_to_string(repository_root().join("docs/errors.md")).expect("the page is there");
    let cells = text.lines().filter_map(|line| Some(line.strip_prefix("| ")?.split_once(" | ")?.0));
    let messages: Vec<&str> =
        cells.filter(|cell| cell.starts_with('`')).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(messages.len() > 200, "{} messages were read", messages.len());
    let programs = programs().join("\n").to_lowercase();
    let (others, ours): (Vec<&str>, Vec<&str>) = messages.iter().partition(|message| OF_OTHERS.contains(message));
    assert_eq!(others.len(), OF_OTHERS.len(), "{others:?}");
    let missing: Vec<&&str> = ours.iter().filter(|message| !could_be_said(message, &programs)).collect();
    assert!(missing.is_empty(), "no program has these: {missing:#?}");
    for wrong in ["unable to fly to '…': no wings", "every tape of the robot was eaten"] {
        assert!(!could_be_said(wrong, &programs), "{wrong}");
    }
}

#[test]
fn every_quoted_message_exists() {
    let errors = fs::read_to_string(repository_root().join("docs/errors.md")).expect("the page is there");
    let programs = programs();
    let messages = quoted("docs/faq.md");
    assert!(messages.len() > 30, "{messages:?}");
    let missing: Vec<&String> = messages
        .iter()
        .filter(|message| !stands_in(message, &errors) && !programs.iter().any(|text| stands_in(message, text)))
        .collect();
    assert!(missing.is_empty(), "neither in docs/errors.md nor in the sources: {missing:#?}");
    assert!(!stands_in("unable to fly to '…': no wings", &errors));
}
