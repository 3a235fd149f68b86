//! A user at a machine: their configuration, and what the program says to them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use super::support::{
    Host, Masters, NixEnv, Sshd, percent_encode, run_with_input, run_with_timeout, substituter,
};

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A valid path that nobody has.
pub const ABSENT_PATH: &str = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-nobodys";

pub struct Machine {
    pub env: NixEnv,
    _masters: Masters,
    vars: Vec<(String, String)>,
}

impl Machine {
    /// With these hosts, and Nix led to the program as README says.
    pub fn new(hosts: &[String]) -> Self {
        let machine = Self::without_nix(hosts);
        let line = format!("extra-substituters = {}", substituter(""));
        machine.env.add_conf(&line);
        machine
    }

    /// The same, but Nix knows nothing of the program.
    pub fn without_nix(hosts: &[String]) -> Self {
        let env = NixEnv::new();
        env.configure(hosts, "connect-timeout = 10");
        let machine = Self {
            _masters: env.masters(),
            env,
            vars: Vec::new(),
        };
        // Whoever runs the tests has an ssh configuration too, and units.
        machine
            .var("NIX_SSHOPTS", "-F none")
            .var("SYSTEMD_UNIT_PATH", "/no/units")
    }

    pub fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces ssh-substituter.conf.
    pub fn write_conf(&self, text: &str) -> &Self {
        let path = self.env.conf_dir().join("ssh-substituter.conf");
        fs::write(path, text).expect("write the configuration");
        self
    }

    pub fn run(&self, words: &[&str]) -> Run {
        self.run_with(words, "")
    }

    /// The same, with this on standard input.
    pub fn run_with(&self, words: &[&str], input: &str) -> Run {
        let mut command = self.env.program();
        command.args(words);
        command.envs(self.vars.iter().map(|(name, value)| (name, value)));
        Run(match input {
            "" => run_with_timeout(command, LIMIT),
            input => run_with_input(command, input.as_bytes(), LIMIT),
        })
    }

    /// Has answers about these paths remembered.
    pub fn ask_for(&self, paths: &[&str]) {
        let have = format!("have {}\n", paths.join(" "));
        self.run_with(&["--query"], &format!("\n{have}")).ends(0);
    }

    /// The same as `doctor --json` and as text: the two must agree.
    pub fn doctor(&self, words: &[&str]) -> Diagnosis {
        let all = |first: &[&'static str]| [first, words].concat();
        let json = self.run(&all(&["doctor", "--json"]));
        let text = self.run(&all(&["doctor"]));
        assert_eq!(
            json.code(),
            text.code(),
            "{}\n{}",
            json.stdout(),
            text.stdout()
        );
        Diagnosis {
            status: text.code(),
            found: json.json(),
            text: text.stdout(),
        }
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.env.folder().join("home/.cache/ssh-substituter")
    }
}

pub struct Run(Output);

impl Run {
    pub fn code(&self) -> i32 {
        self.0.status.code().expect("it was not killed")
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).expect("UTF-8 on stdout")
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).expect("UTF-8 on stderr")
    }

    /// What stands on standard output, which is JSON whatever happened.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.stdout();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(
            self.code(),
            code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout(),
            self.stderr()
        );
        self
    }
}

/// What `doctor` found.
pub struct Diagnosis {
    pub status: i32,
    pub found: Value,
    pub text: String,
}

impl Diagnosis {
    /// That all is well, and it says so.
    #[track_caller]
    pub fn healthy(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.text);
        assert_eq!(self.found["well"], true, "{}", self.text);
        assert!(self.text.ends_with("\nAll is well.\n"), "{}", self.text);
        self
    }

    /// That it says it is not, with so many errors and warnings.
    #[track_caller]
    pub fn ill(self, errors: u64, warnings: u64) -> Self {
        assert_eq!(self.status, 1, "{}", self.text);
        assert_eq!(self.found["well"], false, "{}", self.text);
        assert_eq!(self.found["errors"], errors, "{}", self.text);
        assert_eq!(self.found["warnings"], warnings, "{}", self.text);
        self
    }

    /// One finding of this level holds this text; gives it.
    #[track_caller]
    pub fn has(&self, level: &str, text: &str) -> &Value {
        let all = self.found["findings"].as_array().expect("findings");
        let mut found = all.iter().filter(|finding| {
            finding["level"] == level && finding["text"].as_str().unwrap().contains(text)
        });
        let (Some(finding), None) = (found.next(), found.next()) else {
            panic!("not once: {level} {text}\n{}", self.text);
        };
        // People read the same, but for times.
        let line = format!("  {level:<8} ");
        let mut lines = self
            .text
            .lines()
            .filter_map(|shown| shown.strip_prefix(&line));
        assert!(
            lines.any(|shown| shown.contains(text)),
            "{line}{text}\n{}",
            self.text
        );
        finding
    }

    /// The same, and its fix holds all these words.
    #[track_caller]
    pub fn fixed_by(&self, level: &str, text: &str, words: &[&str]) -> &Value {
        let finding = self.has(level, text);
        let fix = finding["fix"]
            .as_str()
            .unwrap_or_else(|| panic!("no fix\n{}", self.text));
        for word in words {
            assert!(fix.contains(word), "no {word:?} in: {fix}");
        }
        assert!(self.text.contains(&format!("fix: {fix}")), "{}", self.text);
        finding
    }
}

/// How messages name this server.
pub fn name(sshd: &Sshd) -> String {
    format!("{}@127.0.0.1:{}", sshd.user(), sshd.port())
}

/// An executable script in the folder of the host's store; its path.
pub fn script(host: &Host, text: &str) -> String {
    let path = host.store.env().folder().join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("make it executable");
    path.to_str().expect("UTF-8 path").to_owned()
}

/// The URL of a host where a script stands in for nix-store.
pub fn scripted(host: &Host, text: &str) -> String {
    let program = percent_encode(&script(host, text));
    host.url(&format!("trusted=true&remote-program={program}"))
}
