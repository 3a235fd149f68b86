//! The private folder for sockets, locks and logs of ssh connections.
//!
//! A user who can write here can make us talk to a connection of theirs. So it must be a real directory that
//! belongs to us and is closed to all others, and no other user may be able to replace it
//! ([`folder`](crate::folder)); anything else is refused.
//!
//! The path is limited: a socket's path has at most 107 bytes (`sun_path`, unix(7); 103 on macOS), and ssh binds
//! it under a name that is 17 bytes longer before it renames it.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::folder::unsafe_ancestor;
use crate::hint::Hint;
use crate::sys::sockets;

/// Names this folder and nothing else; for tests and unusual systems.
pub const OVERRIDE_VAR: &str = "SSH_SUBSTITUTER_RUNTIME_DIR";

/// The longest path of a socket, in bytes.
pub const SOCKET_PATH_MAX: usize = sockets::PATH_MAX - 17;

/// The longest file name that is used in the folder for a socket, in bytes.
pub const SOCKET_NAME_MAX: usize = 20;

/// Why there is no runtime folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeDirError {
    /// It cannot be made or looked at.
    #[error("cannot create the folder {}", .path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else than a private folder of ours has its name.
    #[error("the folder {} is refused: it is {what}", .path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Another user could replace it.
    #[error("the folder {} is refused: other users can change what is in {}", .path.display(), .above.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// The folder above it that is open to them.
        above: PathBuf,
    },
    /// Its path cannot be used for sockets.
    #[error("the folder {} is refused: its path {what}", .path.display())]
    Path {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the path.
        what: &'static str,
    },
}

impl Hint for RuntimeDirError {
    fn hint(&self) -> Option<String> {
        Some("set XDG_RUNTIME_DIR or SSH_SUBSTITUTER_RUNTIME_DIR to a folder that only you can write".to_owned())
    }
}

/// What the choice of the folder depends on. An argument, so that tests need not change the process.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// A folder that was named outright.
    pub explicit: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$TMPDIR`.
    pub tmpdir: Option<PathBuf>,
    /// The effective user id.
    pub uid: u32,
}

impl Environment {
    /// Those of this process; `explicit` goes before the environment variable [`OVERRIDE_VAR`].
    pub fn of_process(explicit: Option<&Path>) -> Self {
        let from_env = |name| {
            env::var_os(name)
                .filter(|v: &OsString| !v.is_empty())
                .map(PathBuf::from)
        };
        Self {
            explicit: explicit
                .map(Path::to_owned)
                .or_else(|| from_env(OVERRIDE_VAR)),
            xdg_runtime_dir: from_env("XDG_RUNTIME_DIR"),
            tmpdir: from_env("TMPDIR"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Finds or makes the folder.
    ///
    /// # Errors
    /// When something else has the name of the first candidate, or no candidate can be used.
    pub fn runtime_dir(&self) -> Result<PathBuf, RuntimeDirError> {
        if let Some(explicit) = &self.explicit {
            check_path(explicit)?;
            return claim(explicit, self.uid);
        }
        let mut last = None;
        for candidate in self.candidates() {
            match check_path(&candidate).and_then(|()| claim(&candidate, self.uid)) {
                // Another user may have put something there: report it instead of moving on silently.
                Err(
                    error @ (RuntimeDirError::Refused { .. } | RuntimeDirError::Exposed { .. }),
                ) => return Err(error),
                Err(error) => last = Some(error),
                found => return found,
            }
        }
        Err(last.unwrap_or(RuntimeDirError::Path {
            path: PathBuf::from("/tmp"),
            what: "is the only one and cannot be used",
        }))
    }

    fn candidates(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        // After `su` the variable still names the other user's folder.
        let ours = |path: &Path| {
            fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == self.uid)
        };
        if let Some(xdg) = &self.xdg_runtime_dir
            && xdg.is_absolute()
            && ours(xdg)
        {
            found.push(xdg.join("ssh-substituter"));
        }
        if self.uid == 0 {
            found.push(PathBuf::from("/run/ssh-substituter"));
        }
        let by_uid = PathBuf::from(format!("/run/user/{}", self.uid));
        if ours(&by_uid) {
            found.push(by_uid.join("ssh-substituter"));
        }
        let name = format!("ssh-substituter-{}", self.uid);
        if let Some(tmpdir) = &self.tmpdir
            && tmpdir.is_absolute()
        {
            found.push(tmpdir.join(&name));
        }
        found.push(Path::new("/tmp").join(name));
        found
    }
}

fn check_path(path: &Path) -> Result<(), RuntimeDirError> {
    let bytes = path.as_os_str().as_bytes();
    let what = if !path.is_absolute() {
        "is not absolute"
    } else if bytes.len() + 1 + SOCKET_NAME_MAX > SOCKET_PATH_MAX {
        "is too long for sockets in it"
    } else if bytes.iter().any(|b| !b.is_ascii_graphic() && *b < 128)
        || bytes.iter().any(|b| br#"%$"'\{}"#.contains(b))
    {
        "has characters that ssh would interpret"
    } else {
        return Ok(());
    };
    Err(RuntimeDirError::Path {
        path: path.to_owned(),
        what,
    })
}

fn claim(path: &Path, uid: u32) -> Result<PathBuf, RuntimeDirError> {
    let failed = |source| RuntimeDirError::Create {
        path: path.to_owned(),
        source,
    };
    let refused = |what| RuntimeDirError::Refused {
        path: path.to_owned(),
        what,
    };
    if let Some(above) = unsafe_ancestor(path, uid).map_err(failed)? {
        let path = path.to_owned();
        return Err(RuntimeDirError::Exposed { path, above });
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let meta = fs::symlink_metadata(path).map_err(failed)?;
    if meta.file_type().is_symlink() {
        return Err(refused("a symbolic link"));
    }
    if !meta.is_dir() {
        return Err(refused("not a folder"));
    }
    if meta.uid() != uid {
        return Err(refused("owned by another user"));
    }
    // Others may already have put something into it.
    if meta.mode() & 0o022 != 0 {
        return Err(refused("open to other users"));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment_for(explicit: PathBuf) -> Environment {
        Environment {
            explicit: Some(explicit),
            ..Environment::of_process(None)
        }
    }

    #[test]
    fn it_is_made_private_and_tightened() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("r");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        environment_for(path.clone()).runtime_dir().unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        environment_for(path.clone()).runtime_dir().unwrap();
        assert_eq!(mode(), 0o700);
        // Too late for that where others could write: what is in it may be theirs.
        for open in [0o722, 0o770, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            let error = environment_for(path.clone()).runtime_dir().unwrap_err();
            assert!(error.to_string().ends_with("open to other users"));
            assert_eq!(mode(), open, "left as it was");
        }
    }

    #[test]
    fn a_folder_above_that_is_open_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let above = temp.path().canonicalize().unwrap().join("above");
        fs::create_dir(&above).unwrap();
        fs::set_permissions(&above, Permissions::from_mode(0o777)).unwrap();
        let path = above.join("r");
        let error = environment_for(path.clone()).runtime_dir().unwrap_err();
        let expected = format!(
            "the folder {} is refused: other users can change what is in {}",
            path.display(),
            above.display()
        );
        assert_eq!(error.to_string(), expected);
        assert!(!path.exists());
    }

    #[test]
    fn links_files_and_strangers_are_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        let error = environment_for(link).runtime_dir().unwrap_err().to_string();
        assert!(
            error.contains("/link is refused: it is a symbolic link"),
            "{error}"
        );

        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        let error = environment_for(file).runtime_dir().unwrap_err().to_string();
        assert!(error.contains("not a folder"), "{error}");

        let stranger = Environment {
            uid: rustix::process::geteuid().as_raw() + 1,
            ..environment_for(temp.path().to_owned())
        };
        let error = stranger.runtime_dir().unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
    }

    #[test]
    fn a_path_that_is_too_long_falls_to_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let long = temp.path().join("x".repeat(70));
        fs::create_dir(&long).unwrap();
        let here = Environment {
            explicit: None,
            xdg_runtime_dir: Some(long.clone()),
            tmpdir: Some(temp.path().to_owned()),
            uid: rustix::process::geteuid().as_raw(),
        };
        let candidates = here.candidates();
        assert_eq!(candidates[0], long.join("ssh-substituter"));
        assert!(check_path(&candidates[0]).is_err());
        assert!(
            candidates
                .iter()
                .skip(1)
                .any(|path| path.starts_with(temp.path()) && check_path(path).is_ok())
        );
        assert!(matches!(
            environment_for(long).runtime_dir(),
            Err(RuntimeDirError::Path { .. })
        ));
    }

    #[test]
    fn another_users_xdg_folder_is_not_a_candidate() {
        let temp = tempfile::tempdir().unwrap();
        let here = Environment {
            explicit: None,
            xdg_runtime_dir: Some(temp.path().to_owned()),
            tmpdir: None,
            uid: rustix::process::geteuid().as_raw() + 1,
        };
        assert!(
            !here
                .candidates()
                .iter()
                .any(|path| path.starts_with(temp.path()))
        );
    }
}
