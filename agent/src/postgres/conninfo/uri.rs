//! Connection strings of the form `postgresql://user:password@host:port,…/database?parameter=value&…`.

use super::error::ConninfoError;
use super::keyword_value::Pair;
use super::parameters::is_blank;

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Whether libpq takes the text for a URI.
pub(super) fn is_uri(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Takes a URI apart into parameters, later ones meant to win. Parts that are empty set nothing.
///
/// Errors show no text of the URI: reserved characters in a password would put pieces of it anywhere.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, ConninfoError> {
    let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let mut pairs = Vec::new();
    let rest = credentials(rest, &mut pairs)?;
    let rest = hosts(rest, &mut pairs)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if let Some(database) = path.strip_prefix('/').filter(|database| !database.is_empty()) {
        push(&mut pairs, "dbname", decode(database, "database name")?);
    }
    parameters(query, &mut pairs)?;
    Ok(pairs)
}

fn credentials<'a>(rest: &'a str, pairs: &mut Vec<Pair>) -> Result<&'a str, ConninfoError> {
    let Some((credentials, rest)) = rest.split_once('@').filter(|(before, _)| !before.contains('/')) else {
        return Ok(rest);
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    if !user.is_empty() {
        push(pairs, "user", decode(user, "user")?);
    }
    if !password.is_empty() {
        push(pairs, "password", decode(password, "password")?);
    }
    Ok(rest)
}

/// Reads `host:port,…` and returns what follows, which is empty or begins with `/` or `?`.
fn hosts<'a>(mut rest: &'a str, pairs: &mut Vec<Pair>) -> Result<&'a str, ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let host;
        (host, rest) = one_host(rest)?;
        hosts.push(host);
        let mut port = "";
        if let Some(after) = rest.strip_prefix(':') {
            (port, rest) = split_before(after, &['/', '?', ',']);
        }
        if !decode(port, "port")?.chars().all(|character| character.is_ascii_digit()) {
            return Err(unescaped("what follows a ':' among the hosts is no port number"));
        }
        ports.push(port);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => break,
        }
    }
    // Commas that part nothing still say that there are several hosts and ports.
    let (hosts, ports) = (hosts.join(","), ports.join(","));
    if !hosts.is_empty() {
        push(pairs, "host", decode(&hosts, "host")?);
    }
    if !ports.is_empty() {
        push(pairs, "port", decode(&ports, "port")?);
    }
    Ok(rest)
}

fn one_host(rest: &str) -> Result<(&str, &str), ConninfoError> {
    let Some(bracketed) = rest.strip_prefix('[') else {
        let (host, rest) = split_before(rest, &[':', '/', '?', ',']);
        // libpq would look this name up; it is the end of a password, which must not reach the log of a name server.
        let stray = host.contains('@');
        return if stray { Err(unescaped("there is a second '@'")) } else { Ok((host, rest)) };
    };
    let Some((host, rest)) = bracketed.split_once(']') else {
        return Err(ConninfoError::Syntax("a '[' before an IPv6 address has no ']'".to_owned()));
    };
    if host.is_empty() {
        return Err(ConninfoError::Syntax("the IPv6 address between '[' and ']' is empty".to_owned()));
    }
    if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
        return Err(ConninfoError::Syntax("neither ':', '/', '?' nor ',' follows the ']' of an address".to_owned()));
    }
    Ok((host, rest))
}

fn parameters(mut query: &str, pairs: &mut Vec<Pair>) -> Result<(), ConninfoError> {
    let mut number = 0;
    while !query.is_empty() {
        let parameter;
        (parameter, query) = query.split_once('&').unwrap_or((query, ""));
        number += 1;
        let what = format!("query parameter {number}");
        let parts: Vec<&str> = parameter.split('=').collect();
        let [keyword, value] = parts[..] else {
            return Err(ConninfoError::Syntax(format!("{what} has {} '=' instead of one", parts.len() - 1)));
        };
        let (keyword, value) = (decode(keyword, &what)?, decode(value, &what)?);
        match (keyword.as_str(), value.as_str()) {
            // What JDBC writes.
            ("ssl", "true") => push(pairs, "sslmode", "require".to_owned()),
            _ => push(pairs, &keyword, value),
        }
    }
    Ok(())
}

fn push(pairs: &mut Vec<Pair>, keyword: &str, value: String) {
    pairs.push(Pair { keyword: keyword.to_owned(), value, position: 1 });
}

fn split_before<'a>(text: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(stops).unwrap_or(text.len()))
}

fn unescaped(what: &str) -> ConninfoError {
    let hint = "write '@' as %40, '/' as %2F, ':' as %3A and '%' as %25 inside a user name or password";
    ConninfoError::Syntax(format!("{what}; {hint}"))
}

/// Undoes percent-encoding. Blanks around a part are dropped and blanks inside are wrong (since libpq 17).
fn decode(text: &str, what: &str) -> Result<String, ConninfoError> {
    let wrong = |how: &str| ConninfoError::Syntax(format!("the {what} {how}"));
    let text = text.trim_matches(is_blank);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(wrong("has a '%' without two hexadecimal digits after it"));
                };
                match u8::try_from(high * 16 + low).unwrap_or_default() {
                    0 => return Err(wrong("contains %00")),
                    byte => bytes.push(byte),
                }
            }
            byte if is_blank(char::from(byte)) => return Err(wrong("contains a blank; write it as %20")),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> String {
        let pairs = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let written: Vec<String> = pairs.iter().map(|pair| format!("{}={}", pair.keyword, pair.value)).collect();
        written.join(" ")
    }

    #[test]
    fn reads_what_libpq_reads() {
        for (text, expected) in [
            ("postgresql://", ""),
            ("postgres://", ""),
            ("postgresql:///", ""),
            ("postgresql://h", "host=h"),
            ("postgresql://h:1", "host=h port=1"),
            ("postgresql://:1", "port=1"),
            ("postgresql://h:", "host=h"),
            ("postgresql://h/d", "host=h dbname=d"),
            ("postgresql://u@h", "user=u host=h"),
            ("postgresql://u:p@h:1/d", "user=u password=p host=h port=1 dbname=d"),
            ("postgresql://u:p:q@h", "user=u password=p:q host=h"),
            ("postgresql://:p@h", "password=p host=h"),
            ("postgresql://u:@h", "user=u host=h"),
            ("postgresql://@h", "host=h"),
            ("postgresql://u@", "user=u"),
            ("postgresql://u%40x:p%2F%3a%25@h", "user=u@x password=p/:% host=h"),
            ("postgresql://u:p?x@h", "user=u password=p?x host=h"),
            ("postgresql://a,b/d", "host=a,b port=, dbname=d"),
            ("postgresql://a:1,b:2,c/d", "host=a,b,c port=1,2, dbname=d"),
            ("postgresql://,/d", "host=, port=, dbname=d"),
            ("postgresql://[::1]", "host=::1"),
            ("postgresql://[::1]:5433/d", "host=::1 port=5433 dbname=d"),
            ("postgresql://[fe80::1%25eth0],[::2]:3", "host=fe80::1%eth0,::2 port=,3"),
            ("postgresql://[::1]?a=b", "host=::1 a=b"),
            ("postgresql://%2Fvar%2Frun/d", "host=/var/run dbname=d"),
            ("postgresql:///d?host=/tmp&port=7", "dbname=d host=/tmp port=7"),
            ("postgresql://h?a=b", "host=h a=b"),
            ("postgresql://h/?a=b&", "host=h a=b"),
            ("postgresql://h/d?a=&b=%3D%26", "host=h dbname=d a= b==&"),
            ("postgresql://h?ssl=true", "host=h sslmode=require"),
            ("postgresql://h?ssl=false", "host=h ssl=false"),
            ("postgresql://h/d/e", "host=h dbname=d/e"),
            ("postgresql://h/ d ?a= b ", "host=h dbname=d a=b"),
            ("postgresql://h/d?options=-c%20a%3Db", "host=h dbname=d options=-c a=b"),
            ("postgresql://h/%C3%A4", "host=h dbname=ä"),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_without_showing_a_password() {
        for text in [
            "postgresql://u:se/cret@h",
            "postgresql://u:se@cret@h",
            "postgresql://u:cret%@h",
            "postgresql://u:cret%4@h",
            "postgresql://u:cret%zz@h",
            "postgresql://u:cret%00@h",
            "postgresql://u:cret%ff@h",
            "postgresql://u:se cret@h",
            "postgresql://[::1",
            "postgresql://[]",
            "postgresql://[::1]x",
            "postgresql://h?cret",
            "postgresql://h?a=b=cret",
            "postgresql://h?a=b&&c=d",
            "postgresql://h:cret",
            "postgresql://h:-1",
        ] {
            let error = parse(text).map(drop).expect_err(text).to_string();
            assert!(!error.contains("cret"), "{error}");
        }
    }

    fn encode(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn encoding_is_undone_by_parsing(user in "[^\0]+", password in "[^\0]+", database in "[^\0]+") {
            let text = format!("postgresql://{}:{}@h/{}", encode(&user), encode(&password), encode(&database));
            let values: Vec<String> = parse(&text).unwrap().into_iter().map(|pair| pair.value).collect();
            prop_assert_eq!(values, vec![user, password, "h".to_owned(), database]);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>(), special in r"[a0:/@,?&=%\[\] ]*") {
            let _ = parse(&format!("postgresql://{text}"));
            let _ = parse(&format!("postgres://{special}"));
        }
    }
}
