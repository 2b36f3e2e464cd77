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
