//! LIST answers that are not up to date.

use std::collections::HashSet;

use super::operation::decode;

/// The answer without the objects named in `hidden`.
///
/// Works on the text: servers write the XML differently, but every one encloses objects in `<Contents>`.
pub(super) fn without(answer: &str, hidden: &HashSet<String>) -> String {
    let mut shown = String::with_capacity(answer.len());
    let mut rest = answer;
    while let Some(begin) = rest.find("<Contents>") {
        let Some(length) = rest[begin..].find("</Contents>").map(|at| at + "</Contents>".len()) else { break };
        let object = &rest[begin..begin + length];
        shown.push_str(&rest[..begin]);
        if !key(object).is_some_and(|key| hidden.contains(&key)) {
            shown.push_str(object);
        }
        rest = &rest[begin + length..];
    }
    shown.push_str(rest);
    shown
}

fn key(object: &str) -> Option<String> {
    let (key, _) = object.split_once("<Key>")?.1.split_once("</Key>")?;
    Some(decode(&key.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_what_is_named_and_nothing_else() {
        let answer =
            "<R><Contents><Key>a/1</Key></Contents>\n<Contents><Key>a/2%2B</Key></Contents><Prefix>a</Prefix></R>";
        let hide = |keys: &[&str]| without(answer, &keys.iter().map(|key| (*key).to_owned()).collect());
        assert_eq!(hide(&[]), answer);
        assert_eq!(hide(&["a", "a/2"]), answer);
        assert_eq!(hide(&["a/1"]), "<R>\n<Contents><Key>a/2%2B</Key></Contents><Prefix>a</Prefix></R>");
        assert_eq!(hide(&["a/1", "a/2+"]), "<R>\n<Prefix>a</Prefix></R>");
    }
}
