//! Programs of a host that print a wrong byte when they are told to.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{Scratch, tool};

/// Programs that stand before the usual ones in the PATH of a host.
pub struct Liars {
    folder: Scratch,
}

impl Liars {
    pub fn new(names: &[&str]) -> Self {
        let folder = Scratch::new();
        for name in names {
            let script = folder.write(name, script(&folder, name));
            fs::set_permissions(script, Permissions::from_mode(0o755)).expect("make a script");
        }
        Self { folder }
    }

    /// For the environment of the host.
    pub fn path(&self) -> String {
        let usual = std::env::var("PATH").expect("a PATH");
        format!("{}:{usual}", self.folder.path().display())
    }

    /// The next one of that name that prints something gets one byte of it wrong, which one follows from the number.
    pub fn arm(&self, name: &str, number: u64) {
        // At once: it may be looked for while it is written.
        let file = self
            .folder
            .write(&format!("new-{name}"), number.to_string());
        fs::rename(file, self.armed(name)).expect("rename a file");
    }

    /// Whether one has done so since. It does not any more.
    pub fn disarm(&self, name: &str) -> bool {
        fs::remove_file(self.armed(name)).is_err()
    }

    /// Whether it waits for the next one.
    pub fn is_armed(&self, name: &str) -> bool {
        self.armed(name).exists()
    }

    fn armed(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("armed-{name}"))
    }
}

fn script(folder: &Scratch, name: &str) -> String {
    let [real, cat, mv, od, head, tail, wc] = [name, "cat", "mv", "od", "head", "tail", "wc"]
        .map(|name| tool(name).display().to_string());
    let folder = folder.path().display();
    format!(
        r#"#!/bin/sh
if {mv} '{folder}/armed-{name}' '{folder}/number-'$$ 2>/dev/null; then
  {real} "$@" >'{folder}/out-'$$; status=$?
  size=$({wc} -c <'{folder}/out-'$$); at=$({cat} '{folder}/number-'$$)
  if [ "$size" -gt 0 ]; then
    at=$((at % size)); byte=$({od} -An -tu1 -j $at -N 1 '{folder}/out-'$$)
    {head} -c $at '{folder}/out-'$$
    printf "\\$(printf %03o $((byte ^ 1)))"
    {tail} -c +$((at + 2)) '{folder}/out-'$$
  fi
  exit $status
fi
exec {real} "$@"
"#
    )
}
