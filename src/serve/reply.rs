//! The replies to queries of the serve protocol.

use crate::backend::{Backend, BackendError};
use crate::wire::serve::{Request, Version, put_info, put_infos_end, put_set};

/// What happens to a path info without NAR hash, which a host before Nix 2.0 gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingHash {
    /// It is left out with a warning where the version has a hash: Nix would reject the whole reply.
    LeaveOut,
    /// It is sent: the engine's clients know what to do with it.
    Send,
}

/// Appends the reply to a query. A request for a NAR has no reply of this kind; nothing is appended.
pub(crate) async fn put_reply(
    out: &mut Vec<u8>,
    query: Request,
    backend: &dyn Backend,
    version: Version,
    missing_hash: MissingHash,
) -> Result<(), BackendError> {
    match query {
        Request::QueryValidPaths { paths, .. } => {
            put_set(out, &backend.valid_paths(&paths).await?);
        }
        Request::QueryPathInfos { paths } => {
            for info in backend.path_infos(&paths).await? {
                if missing_hash == MissingHash::LeaveOut
                    && version.has_hash()
                    && info.nar_hash.is_none()
                {
                    log::warn!(
                        "{}: left out, since its host is too old to report its NAR hash",
                        info.path
                    );
                    continue;
                }
                put_info(out, version, &info);
            }
            put_infos_end(out);
        }
        Request::QueryClosure {
            include_outputs,
            paths,
        } => {
            put_set(out, &backend.closure(&paths, include_outputs).await?);
        }
        Request::DumpStorePath { .. } => {}
    }
    Ok(())
}
