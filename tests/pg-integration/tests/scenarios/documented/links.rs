//! Links between the pages: each leads to a file, and where it names a heading, to one of these.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walkeep_pg_integration::documents::{Page, repository_root};

/// A heading as links name it: lower case, without punctuation, blanks as hyphens.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut in_block = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        in_block ^= line.trim_start().starts_with("```");
        if line.starts_with('#') && !in_block {
            found.insert(anchor(line));
        }
    }
    found
}

/// What is linked from a text; blocks of code are left out.
fn links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(link, _)| link)
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = repository_root();
    let pages: Vec<PathBuf> = Page::all().iter().map(|page| root.join(&page.name)).collect();
    let (mut seen, mut broken) = (0, BTreeSet::new());
    for page in &pages {
        let text = fs::read_to_string(page).expect("the page is there");
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            let leads = target.exists() && (heading.is_empty() || anchors(&target).contains(heading));
            seen += 1;
            if !leads {
                broken.insert(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 100, "{seen} links were read");
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(anchor("## `[stream]` and, perhaps, more"), "stream-and-perhaps-more");
}
