//! A changed configuration, a changed program: a new engine, while the old one serves whom it has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::site::Site;
use super::support::{Host, Nix, SHORT, program, run, tool, wait_until};
use super::talk::FrontEnd;

#[test]
fn another_list_of_hosts_is_another_engine() {
    let site = Site::new("");
    let mut old = site.front_end();
    site.fetch(&mut old, 0);
    let before = site.process();

    let other = Host::new();
    let path = other.store.add_text("other", "only there", &[]);
    let hosts = [other.trusted(), site.host.trusted()];
    let _more = site.env.configure_with_engine(&hosts, "");
    let mut new = site.front_end();
    new.talk.fetch(&path, &other.store);
    site.fetch(&mut new, 1);
    let mut clients = site.clients();
    assert_eq!(clients.len(), 2, "{clients:?}");
    clients.retain(|(pid, _)| *pid != before);
    let [(after, 1)] = clients[..] else {
        panic!("{clients:?}")
    };

    // The old one knows nothing of the other host, and serves as before.
    assert!(old.talk.infos(&[&path]).is_empty());
    site.fetch(&mut old, 2);
    assert_eq!(site.processes().len(), 2);
    old.end_quietly();
    wait_until("the old engine ends", || site.processes() == [after]);
    assert_eq!(site.sockets().len(), 1);
    site.fetch(&mut new, 3);
    new.end_quietly();
}

/// A copy of the program. Another process writes it: a program that is open for writing anywhere cannot be started, and
/// whatever another test starts meanwhile would inherit it from this process.
fn copy_to(path: &Path) {
    let mut command = Command::new(tool("cp"));
    command.arg(program()).arg(path);
    run(command, SHORT);
}

struct Installed {
    site: Site,
    program: PathBuf,
}

impl Installed {
    fn new() -> Self {
        let site = Site::new("");
        let folder = site.env.folder().join("installed");
        fs::create_dir(&folder).expect("make a folder");
        let program = folder.join("ssh-substituter");
        copy_to(&program);
        Self { site, program }
    }

    /// As package managers do.
    fn update(&self) {
        let new = self.program.with_extension("new");
        copy_to(&new);
        fs::rename(new, &self.program).expect("replace the program");
    }

    fn front_end(&self) -> FrontEnd {
        let mut command = self.site.env.command(&self.program);
        command.arg("--serve");
        FrontEnd::start(command)
    }
}

#[test]
fn an_update_of_the_program_is_another_engine() {
    let installed = Installed::new();
    let site = &installed.site;
    let mut old = installed.front_end();
    site.fetch(&mut old, 0);
    let before = site.process();

    installed.update();
    let mut new = installed.front_end();
    site.fetch(&mut new, 1);
    site.fetch(&mut old, 2);
    assert_eq!(site.clients().len(), 2, "{:?}", site.clients());
    old.end_quietly();
    wait_until("the old engine ends", || site.processes().len() == 1);
    assert_ne!(site.process(), before);
    assert_eq!(site.clients(), [(site.process(), 1)]);
    new.end_quietly();
}

#[test]
fn a_program_that_is_removed_while_it_runs_goes_on() {
    let installed = Installed::new();
    let site = &installed.site;
    let mut front_end = installed.front_end();
    site.fetch(&mut front_end, 0);
    fs::remove_file(&installed.program).expect("remove the program");
    site.fetch(&mut front_end, 1);
    site.kill();
    site.fetch(&mut front_end, 2);
    front_end.end_quietly();
}

#[test]
fn nix_finds_the_new_program_by_its_old_name() {
    let installed = Installed::new();
    let site = &installed.site;
    let url = format!(
        "ssh://localhost?remote-program={}&trusted=true",
        installed.program.display()
    );
    let nix = Nix::new().substituters(&url);
    let engines = nix
        .store()
        .env()
        .configure_with_engine(&[site.host.trusted()], "");
    nix.realise(&[site.path(0)]).ok();
    let before = engines.pid();
    installed.update();
    nix.realise(&[site.path(1)]).ok();
    wait_until("the old engine ends", || {
        let pids = engines.pids();
        pids.len() == 1 && pids[0] != before
    });
    for number in 0..2 {
        assert!(nix.store().verify_path(site.path(number)));
    }
}
