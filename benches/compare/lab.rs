//! What the rows are measured with: hosts, closures, links. Each is made when the first row needs it.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::{Path, PathBuf};

use crate::delay_line;
use crate::support::{DagOptions, Host, Scratch, Sshd};
use crate::table::tell;

/// What was asked for on the command line.
pub struct Options {
    /// Runs of each; slow contenders get one.
    pub runs: usize,
    /// Only groups of rows with one of these in their title; all if empty.
    pub only: Vec<String>,
    /// Sizes are divided by this.
    pub scale: u64,
    /// Without contenders that are slow at latency.
    pub ours: bool,
    /// With Debian's packages, which apt is to fetch.
    pub debian: bool,
    /// The `nix` that calls in the rows about an engine; the installed one if `None`.
    pub nix: Option<PathBuf>,
}

/// Hosts and what is in their stores.
pub struct Lab {
    pub options: Options,
    titles: RefCell<Vec<String>>,
    hosts: [OnceCell<Host>; 2],
    dag: OnceCell<String>,
    small_dag: OnceCell<Vec<String>>,
    big: OnceCell<Vec<String>>,
    even: OnceCell<Vec<String>>,
    tiny: OnceCell<String>,
    /// Seconds that our own program took for the large closure without latency.
    pub big_at_once: Cell<Option<f64>>,
}

impl Lab {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            titles: RefCell::default(),
            hosts: [OnceCell::new(), OnceCell::new()],
            dag: OnceCell::new(),
            small_dag: OnceCell::new(),
            big: OnceCell::new(),
            even: OnceCell::new(),
            tiny: OnceCell::new(),
            big_at_once: Cell::new(None),
        }
    }

    /// Whether this group of rows is wanted; tells that it begins.
    pub fn wants(&self, title: &str) -> bool {
        let only = &self.options.only;
        let wanted = only.is_empty() || only.iter().any(|part| title.contains(part.as_str()));
        if wanted {
            tell(&format!("{title} ..."));
        }
        self.titles.borrow_mut().push(title.to_owned());
        wanted
    }

    /// Titles of all groups, wanted or not.
    pub fn titles(&self) -> Vec<String> {
        self.titles.borrow().clone()
    }

    /// How often a contender is measured that is slow at this latency.
    pub fn their_runs(&self, rtt: u64) -> usize {
        match rtt {
            0 => self.options.runs,
            _ => usize::from(!self.options.ours),
        }
    }

    pub fn host(&self) -> &Host {
        self.hosts[0].get_or_init(Host::new)
    }

    /// The same as the first one, with a sshd of its own.
    pub fn second_host(&self) -> &Host {
        self.hosts[1].get_or_init(Host::new)
    }

    /// How many paths the closure of many paths has.
    pub fn dag_count(&self) -> usize {
        self.scaled(500) as usize
    }

    /// Root of a closure of small paths.
    pub fn dag(&self) -> &str {
        self.dag.get_or_init(|| {
            let count = self.dag_count();
            self.host().store.dag(count, DagOptions::default()).root
        })
    }

    /// A closure of 20 small paths, references first.
    pub fn small_dag(&self) -> &[String] {
        self.small_dag.get_or_init(|| {
            let options = DagOptions {
                seed: 2,
                ..DagOptions::default()
            };
            self.host().store.dag(20, options).paths
        })
    }

    /// A closure of 20 large paths, 1.15 GB, the first one 420 MB, and of a small one that refers to
    /// them, the last.
    pub fn big(&self) -> &[String] {
        self.big.get_or_init(|| {
            let of = |number| if number == 0 { 420_000_000 } else { 38_400_000 };
            self.large_closure("part", of)
        })
    }

    /// The same bytes in 20 paths of one size.
    pub fn even(&self) -> &[String] {
        self.even
            .get_or_init(|| self.large_closure("even", |_| 57_480_000))
    }

    fn large_closure(&self, name: &str, size: impl Fn(u64) -> u64) -> Vec<String> {
        let store = &self.host().store;
        let mut paths: Vec<String> = (0..20)
            .map(|number| (format!("{name}-{number}"), self.scaled(size(number))))
            .map(|(name, size)| store.big(&name, size))
            .collect();
        let references: Vec<&str> = paths.iter().map(String::as_str).collect();
        let root = format!("{name}-root");
        paths.push(store.add_text(&root, &references.join("\n"), &references));
        paths
    }

    /// A path of many small files.
    pub fn tiny(&self) -> &str {
        let count = self.scaled(50_000) as usize;
        self.tiny
            .get_or_init(|| self.host().store.many_files(count))
    }

    /// A size, made smaller when it shall go quickly.
    pub fn scaled(&self, size: u64) -> u64 {
        size / self.options.scale
    }
}

/// How far away hosts are.
#[derive(Clone, Copy, Default)]
pub struct Line {
    /// Milliseconds there and back.
    pub rtt: u64,
    /// Bytes per second from each host, shared by all connections to it; 0 for no limit.
    pub rate: u64,
}

impl Line {
    pub fn rtt(rtt: u64) -> Self {
        Self { rtt, rate: 0 }
    }
}

/// A [`Line`] made real: an ssh_config that leads ssh through it. Without latency and limit there is nothing in between.
pub struct Link {
    scratch: Scratch,
    config: PathBuf,
    counts: PathBuf,
}

impl Link {
    /// Leads any host name to this server.
    pub fn to(sshd: &Sshd, line: Line) -> Self {
        Self::with(sshd.client_config("*"), line)
    }

    /// Leads each host where its own URL says.
    pub fn to_any(line: Line) -> Self {
        Self::with("Host *\n  BatchMode yes\n".to_owned(), line)
    }

    fn with(mut text: String, line: Line) -> Self {
        let scratch = Scratch::new();
        let counts = scratch.folder("counts");
        if line.rtt > 0 || line.rate > 0 {
            let bench = std::env::current_exe().expect("the path of this program");
            // Nobody reads what it says: ssh's own stderr is a file or a pipe that must not be held open.
            text.push_str(&format!(
                "  ProxyCommand '{}' {} %h %p {} {} '{}/rate-%p' '{}' 2>/dev/null\n",
                bench.display(),
                delay_line::NAME,
                line.rtt * 500,
                line.rate,
                scratch.path().display(),
                counts.display()
            ));
        }
        let config = scratch.write("ssh_config", text);
        Self {
            scratch,
            config,
            counts,
        }
    }

    /// For `NIX_SSHOPTS`: Nix splits it at white space, so all that needs quotes is in the file.
    pub fn options(&self) -> String {
        format!("-F {}", self.config.display())
    }

    /// For `ssh -F`.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A folder that goes with the link.
    pub fn folder(&self) -> &Scratch {
        &self.scratch
    }

    /// Round trips so far, the logins among them, over all connections.
    pub fn trips(&self) -> u64 {
        delay_line::counts(&self.counts).0
    }

    /// Bytes from the host so far, over all connections, with what ssh adds.
    pub fn wire(&self) -> u64 {
        delay_line::counts(&self.counts).1
    }
}
