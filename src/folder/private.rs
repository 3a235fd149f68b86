//! The private folders of a user: one for what may be lost, one for what may not.
//!
//! | what | override | tried in this order |
//! | --- | --- | --- |
//! | [`Purpose::Cache`] | `SSH_SUBSTITUTER_CACHE_DIR` | `$XDG_CACHE_HOME/ssh-substituter`, `~/.cache/ssh-substituter`, for root `/var/cache/ssh-substituter` |
//! | [`Purpose::State`] | `SSH_SUBSTITUTER_STATE_DIR` | for root `/var/lib/ssh-substituter`, `$XDG_STATE_HOME/ssh-substituter`, `~/.local/state/ssh-substituter` |
//!
//! The variable in the second column names the folder itself, which is then the only one.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{is_writable_by_others, unsafe_ancestor};

const FOLDER_NAME: &str = "ssh-substituter";

/// What a folder is for (the XDG base directory specification has both).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// What may be lost: it costs time only.
    #[default]
    Cache,
    /// What is to be done yet.
    State,
}

impl Purpose {
    /// The environment variable that names the folder itself; for tests and unusual systems.
    #[must_use]
    pub fn override_variable(self) -> &'static str {
        match self {
            Self::Cache => "SSH_SUBSTITUTER_CACHE_DIR",
            Self::State => "SSH_SUBSTITUTER_STATE_DIR",
        }
    }

    fn xdg_variable(self) -> &'static str {
        match self {
            Self::Cache => "XDG_CACHE_HOME",
            Self::State => "XDG_STATE_HOME",
        }
    }

    fn below_home(self) -> &'static str {
        match self {
            Self::Cache => ".cache",
            Self::State => ".local/state",
        }
    }

    fn of_system(self) -> &'static str {
        match self {
            Self::Cache => "/var/cache",
            Self::State => "/var/lib",
        }
    }
}

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It cannot be made or looked at.
    #[error("cannot create the folder {}: {source}", .path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could use what is there against us.
    #[error("the folder {} is refused: it is {what}", .path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// There is no folder to try.
    #[error("neither {} nor HOME names a folder to use", .0.xdg_variable())]
    Homeless(Purpose),
}

/// What the choice depends on; a value, so that tests need not change the process.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// What the folder is for.
    pub purpose: Purpose,
    /// The folder that [`Purpose::override_variable`] names.
    pub explicit: Option<PathBuf>,
    /// `$XDG_CACHE_HOME` or `$XDG_STATE_HOME`.
    pub xdg_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// The effective user id.
    pub uid: u32,
}

impl Environment {
    /// That of this process, for the cache.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of_process_for(Purpose::Cache)
    }

    /// That of this process.
    #[must_use]
    pub fn of_process_for(purpose: Purpose) -> Self {
        let from_env = |name| {
            let value = env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        Self {
            purpose,
            explicit: from_env(purpose.override_variable()),
            xdg_home: from_env(purpose.xdg_variable()),
            home: from_env("HOME"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Finds or creates the folder.
    ///
    /// # Errors
    /// When no folder can be used; the reason for the last one is given.
    pub fn folder(&self) -> Result<PathBuf, FolderError> {
        let mut last = FolderError::Homeless(self.purpose);
        for candidate in self.candidates() {
            match self.claim(&candidate) {
                Err(error) => last = error,
                found => return found,
            }
        }
        Err(last)
    }

    /// The same if it is there: nothing is made.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub fn existing_folder(&self) -> Result<Option<PathBuf>, FolderError> {
        let mut candidates = self.candidates().into_iter();
        let there = candidates.find(|path| fs::symlink_metadata(path).is_ok());
        there.map(|path| self.claim(&path)).transpose()
    }

    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(explicit) = &self.explicit {
            return vec![explicit.clone()];
        }
        let xdg = self.xdg_home.clone();
        let home = self
            .home
            .as_ref()
            .map(|home| home.join(self.purpose.below_home()));
        let bases = xdg.into_iter().chain(home);
        let mut found: Vec<_> = bases
            .filter(|base| base.is_absolute() && self.may_fill(base))
            .map(|base| base.join(FOLDER_NAME))
            .collect();
        if self.uid == 0 {
            let system = Path::new(self.purpose.of_system()).join(FOLDER_NAME);
            match self.purpose {
                Purpose::Cache => found.push(system),
                // The same one with HOME (in a shell) and without it (in a service).
                Purpose::State => found.insert(0, system),
            }
        }
        found
    }

    /// Under `sudo`, HOME may still be the other user's: files of root in there would get in that user's way.
    fn may_fill(&self, base: &Path) -> bool {
        let nearest = base.ancestors().find_map(|path| fs::metadata(path).ok());
        self.uid != 0 || nearest.is_some_and(|meta| meta.uid() == 0)
    }

    fn claim(&self, path: &Path) -> Result<PathBuf, FolderError> {
        let failed = |source| FolderError::Create {
            path: path.to_owned(),
            source,
        };
        let refused = |what| FolderError::Refused {
            path: path.to_owned(),
            what,
        };
        // With this mode for all missing folders, as the XDG specification asks.
        let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
        // Users who moved their caches have a link of their own here.
        let link =
            fs::symlink_metadata(path).map_err(|error| failed(made.err().unwrap_or(error)))?;
        if link.uid() != self.uid {
            return Err(refused("owned by another user"));
        }
        let meta = fs::metadata(path).map_err(failed)?;
        if !meta.is_dir() {
            return Err(refused("not a folder"));
        }
        if meta.uid() != self.uid {
            return Err(refused("a link to a folder of another user"));
        }
        // Others may have put files into it.
        if is_writable_by_others(&meta, self.uid) {
            return Err(refused("open to other users"));
        }
        // A folder that was named explicitly is not ours to change.
        if self.explicit.is_none() && meta.mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        // The real path, since SQLite is told not to follow links.
        let real = fs::canonicalize(path).map_err(failed)?;
        for path in [path, &real] {
            if unsafe_ancestor(path, self.uid).map_err(failed)?.is_some() {
                return Err(refused("in a folder where other users can replace it"));
            }
        }
        Ok(real)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn explicit(path: &Path, uid: u32) -> Result<PathBuf, FolderError> {
        let explicit = Some(path.to_owned());
        Environment {
            explicit,
            uid,
            ..Environment::default()
        }
        .folder()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_first_place_that_does_is_made_and_private() {
        let temp = tempfile::tempdir().unwrap();
        let mut here = Environment {
            xdg_home: Some(temp.path().join("xdg")),
            home: Some(temp.path().join("home")),
            uid: uid(),
            ..Environment::default()
        };
        let xdg = here.folder().unwrap();
        assert_eq!(xdg, temp.path().join("xdg/ssh-substituter"));
        assert_eq!((mode(&xdg), mode(&temp.path().join("xdg"))), (0o700, 0o700));
        fs::set_permissions(&xdg, Permissions::from_mode(0o755)).unwrap();
        here.folder().unwrap();
        assert_eq!(mode(&xdg), 0o700, "tightened");

        fs::write(temp.path().join("file"), "").unwrap();
        for unusable in [
            None,
            Some("relative".into()),
            Some(temp.path().join("file")),
        ] {
            here.xdg_home = unusable;
            let home = temp.path().join("home/.cache/ssh-substituter");
            assert_eq!(here.folder().unwrap(), home);
        }
    }

    #[test]
    fn root_leaves_other_users_homes_alone() {
        let here = |home: &Path| Environment {
            home: Some(home.to_owned()),
            ..Environment::default()
        };
        let var = Path::new("/var/cache/ssh-substituter");
        assert_eq!(
            here(Path::new("/")).candidates()[0],
            Path::new("/.cache/ssh-substituter")
        );
        assert_eq!(Environment::default().candidates(), [var]);
        let state = Environment {
            purpose: Purpose::State,
            ..here(Path::new("/"))
        };
        assert_eq!(state.candidates()[0], Path::new("/var/lib/ssh-substituter"));
        // A folder that is surely not root's: one of ours, or made somebody's.
        let temp = tempfile::tempdir().unwrap();
        if uid() == 0 {
            std::os::unix::fs::chown(temp.path(), Some(65_534), None).unwrap();
        }
        assert_eq!(here(temp.path()).candidates(), [var]);
    }

    #[test]
    fn what_others_could_use_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("folder");
        explicit(&folder, uid()).unwrap();
        let reason = |path: &Path, uid| explicit(path, uid).unwrap_err().to_string();
        assert!(reason(&folder, uid() + 1).contains("another user"));
        let link = temp.path().join("link");
        symlink(&folder, &link).unwrap();
        let real = folder.canonicalize().unwrap();
        assert_eq!(explicit(&link, uid()).unwrap(), real, "a link of one's own");
        assert!(reason(&link, uid() + 1).contains("another user"));
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        assert!(reason(&folder, uid()).contains("open to other users"));
        assert_eq!(mode(&folder), 0o777, "left as it was");
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(reason(&file, uid()).contains("not a folder"));
    }
}
