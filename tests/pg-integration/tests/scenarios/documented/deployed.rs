//! deploy/README.md, what needs no more than a shell. The rest of that page is run by `scripts/check-deploy`.

use std::fs;

use walkeep_pg_integration::documents::{Host, Page, repository_root};

#[test]
fn a_policy_is_made_for_a_bucket() {
    let host = Host::new();
    let mut page =
        host.walk("deploy/README.md", "Rights and rules for a bucket").given("> writer.json", "> /tmp/writer.json");
    page.run("s3-policy-writer.json");
    let made: serde_json::Value = serde_json::from_str(&host.read("/tmp/writer.json")).expect("it is JSON");
    let template = fs::read_to_string(repository_root().join("deploy/s3-policy-writer.json")).expect("it is there");
    let expected = template.replace("BUCKET", "my-bucket").replace("PREFIX", "walkeep/main");
    assert_eq!(made, serde_json::from_str::<serde_json::Value>(&expected).expect("it is JSON"));
    let text = made.to_string();
    assert!(text.contains("arn:aws:s3:::my-bucket/walkeep/main/") && !text.contains("PREFIX"), "{text}");
}

/// Whether `*` in a pattern, for anything, makes it fit: as AWS has it, it stands for slashes as well.
fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((before, behind)) => name
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| fits(rest, behind)))),
    }
}

#[test]
fn the_right_to_delete_tails_is_for_tails() {
    let line = Page::only("docs/s3.md", "text", "Tails");
    let pattern = line.trim().strip_prefix("arn:aws:s3:::BUCKET/PREFIX/").expect("the resource that the page adds");
    // A repository as the project pins its format, with a tail.
    let fixture = repository_root().join("chunkstore/tests/fixtures/repository-format-1-tail");
    let mut directories = vec![fixture.clone()];
    let (mut allowed, mut others) = (Vec::new(), 0);
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).expect("the fixture is there").flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(&fixture).expect("it is below").to_string_lossy().into_owned();
            match (path.is_dir(), fits(&name, pattern)) {
                (true, _) => directories.push(path),
                (false, true) => allowed.push(name),
                (false, false) => others += 1,
            }
        }
    }
    assert!(allowed.len() == 1 && allowed[0].contains(".tail-"), "{allowed:?}");
    assert!(others > 5, "{others}");
}
