//! A real Prometheus that scrapes an agent, with alert rules, as `scripts/deploy-tools` prepares it.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::s3::gate::Port;
use crate::s3::process::Process;
use crate::user::Scratch;

/// A running Prometheus; killed on drop. It scrapes and evaluates every second.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    _scratch: Scratch,
}

impl Prometheus {
    /// Scrapes `target` under the job name `walkeep`, and evaluates the rules of a file.
    #[track_caller]
    pub fn start(target: SocketAddr, rules: &Path) -> Self {
        let scratch = Scratch::new("prometheus");
        let configuration = scratch.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [ '{}' ]\n\
             scrape_configs: [ {{ job_name: walkeep, static_configs: [ {{ targets: [ '{target}' ] }} ] }} ]\n",
            rules.display()
        );
        std::fs::write(&configuration, text).unwrap_or_else(|e| panic!("{}: {e}", configuration.display()));
        let mut process = Process::new(Port::reserve(), scratch.path().join("prometheus.log"));
        // As whoever runs the tests: nothing here depends on what this user may do.
        let mut command = Command::new(program());
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
            .arg(format!("--web.listen-address={}", process.address()));
        process.start(command);
        Self { process, _scratch: scratch }
    }

    /// What a query gives now: `data.result` of the answer, which must be a success.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.api(&format!("query?query={}", escaped(expression)));
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_else(|| panic!("{expression}: {answer}"))
    }

    /// The alert rules, with their `health`, `lastError` and `state`.
    #[track_caller]
    pub fn rules(&self) -> Vec<Value> {
        let answer = self.api("rules");
        let groups = answer["data"]["groups"].as_array().unwrap_or_else(|| panic!("{answer}"));
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    fn api(&self, what: &str) -> Value {
        let answer = get(self.process.address(), &format!("/api/v1/{what}"));
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{what}: {e}\n{answer}"))
    }
}

/// The body of what a server answers to `GET path`.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        // HTTP 1.0 knows no chunks: the body is what follows until the end.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_else(|e| panic!("{address}{path}: {e}"));
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_else(|| panic!("{address}{path}: {answer}"))
}

/// As a value in a URL.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

/// The rule of `scripts/deploy-tools`.
fn program() -> PathBuf {
    let tools = std::env::var_os("WALKEEP_TOOLS_DIR").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/walkeep/tools"),
        PathBuf::from,
    );
    let path = tools.join("prometheus/prometheus");
    assert!(
        path.is_file(),
        "\n\n*** PROMETHEUS IS MISSING: no {} ***\n*** run scripts/deploy-tools (WALKEEP_TOOLS_DIR says where to look) ***\n",
        path.display()
    );
    path
}
