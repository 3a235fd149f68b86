//! Three hosts with the same closure, each with an sshd, a proxy before it and relays behind it.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::plan::{Fault, Kind};
use crate::plan_folder::PlanFolder;
use crate::proxy::Proxy;
use crate::relay;
use crate::support::{DagOptions, SHORT, Scratch, Sshd, Store, percent_encode, run};

/// What is fetched.
#[derive(Clone, Debug)]
pub struct Closure {
    /// With its references, the root last.
    pub dag: Vec<String>,
    /// Without references to and from others.
    pub small: Vec<String>,
    /// The same, and large.
    pub large: Vec<String>,
}

impl Closure {
    pub fn fill(store: &Store) -> Self {
        let options = DagOptions {
            levels: 4,
            bytes: 3000,
            ..DagOptions::default()
        };
        let sizes = [0, 9, 4_001, 40_000, 150_000, 700_000];
        let name = |bytes: u64| format!("file-{bytes}");
        let mut closure = Self {
            dag: store.dag(8, options).paths,
            small: Vec::new(),
            large: Vec::new(),
        };
        for bytes in sizes {
            closure.small.push(store.big(&name(bytes), bytes));
        }
        for bytes in [10 << 20, (9 << 20) + 77] {
            closure.large.push(store.big(&name(bytes), bytes));
        }
        closure
    }

    /// All paths.
    pub fn all(&self) -> Vec<String> {
        [&self.dag[..], &self.small, &self.large].concat()
    }
}

pub struct FaultyHost {
    pub store: Store,
    proxy: Proxy,
    sshd: Sshd,
    folder: Scratch,
}

impl FaultyHost {
    /// A host with this store, whose paths are `paths`.
    pub fn new(store: Store, paths: &[String]) -> Self {
        let folder = Scratch::new();
        let script = folder.write("relay", relay::script(folder.path()));
        fs::set_permissions(script, Permissions::from_mode(0o755)).expect("make a script");
        let sizes: String = paths
            .iter()
            .map(|path| format!("{path} {}\n", store.nar_size(path)))
            .collect();
        let sshd = Sshd::start();
        let host = Self {
            proxy: Proxy::new(sshd.port()),
            sshd,
            store,
            folder,
        };
        let plan_folder = host.plan_folder();
        plan_folder.put("sizes", &sizes);
        plan_folder.put("store", &host.store.uri());
        host.announce();
        host
    }

    pub fn plan_folder(&self) -> PlanFolder {
        PlanFolder::new(self.folder.path())
    }

    pub fn arm(&self, faults: &[Fault]) {
        self.plan_folder().arm(faults);
    }

    fn announce(&self) {
        let plan_folder = self.plan_folder();
        plan_folder.put("sshd", &self.sshd.pid().to_string());
        plan_folder.put("control", &self.proxy.control().to_string());
    }

    /// A new sshd, after the old one was killed.
    pub fn revive(&mut self) {
        self.sshd = Sshd::start();
        self.proxy = Proxy::new(self.sshd.port());
        self.announce();
    }

    /// Ends all connections, also those that the program under test keeps for later.
    pub fn hang_up(&self) {
        self.proxy.cut();
    }

    /// For `ssh-substituter-hosts`.
    pub fn url(&self) -> String {
        let relay = self.folder.path().join("relay");
        let relay = percent_encode(relay.to_str().expect("UTF-8 path"));
        let url = self
            .sshd
            .store_url(&format!("trusted=true&remote-program={relay}"));
        url.replace(
            &format!("127.0.0.1:{}", self.sshd.port()),
            &format!("127.0.0.1:{}", self.proxy.port()),
        )
    }
}

/// Three hosts.
pub struct World {
    pub hosts: Vec<FaultyHost>,
    pub closure: Closure,
    /// NAR hashes, in the order of [`Closure::all`].
    pub hashes: Vec<String>,
    /// Has everything and is never touched.
    spare: Store,
}

impl World {
    pub fn new() -> Self {
        let stores = [(); 3].map(|()| Store::new());
        let closure = stores.each_ref().map(Closure::fill)[0].clone();
        let all = closure.all();
        let hashes = all.iter().map(|path| stores[0].nar_hash(path)).collect();
        let hosts = stores.into_iter().map(|store| FaultyHost::new(store, &all));
        let hosts = hosts.collect();
        let spare = Store::new();
        Closure::fill(&spare);
        Self {
            hosts,
            closure,
            hashes,
            spare,
        }
    }

    /// The NAR hash of a path, as Nix prints it.
    pub fn hash(&self, path: &str) -> String {
        self.spare.nar_hash(path)
    }

    /// The NAR size of a path.
    pub fn size(&self, path: &str) -> u64 {
        self.spare.nar_size(path)
    }

    /// A fault may have hit a server after its run was looked at.
    pub fn revive_the_dead(&mut self) {
        for host in &mut self.hosts {
            if TcpStream::connect(("127.0.0.1", host.sshd.port())).is_err() {
                host.revive();
            }
        }
    }

    /// Undoes what the faults of a run have done to a host.
    pub fn repair(&mut self, host: usize, fired: &[Fault]) {
        let host = &mut self.hosts[host];
        host.hang_up();
        if fired.iter().any(|fault| fault.kind == Kind::Gc) {
            let gone: Vec<String> = self
                .closure
                .small
                .iter()
                .chain(&self.closure.large)
                .filter(|path| !host.store.physical(path).exists())
                .cloned()
                .collect();
            host.store.copy_from(&self.spare, &gone);
        }
        if fired.iter().any(|fault| fault.kind == Kind::Sshd) {
            host.revive();
        }
        host.arm(&[]);
    }

    /// An ordinary binary cache with all paths.
    pub fn binary_cache(&self) -> String {
        let folder = self.spare.env().folder().join("cache");
        let url = format!("file://{}", folder.display());
        if !folder.exists() {
            let mut command = self.spare.env().command("nix");
            command.args(["copy", "--no-check-sigs", "--from", &self.spare.uri()]);
            command.args(["--to", &format!("{url}?compression=none")]);
            command.args(self.closure.all());
            run(command, SHORT);
        }
        format!("{url}?trusted=true")
    }

    /// The root of a store that has all paths.
    pub fn names(&self) -> &Path {
        self.spare.root()
    }

    /// For `ssh-substituter-hosts`.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.hosts.iter().map(FaultyHost::url).collect();
        urls.join(" ")
    }
}
