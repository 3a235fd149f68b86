//! `nix-store --serve` over a made-up store, by the project's own codec; or our program, which answers what is in `parts`
//! too. As the real one it goes on telling what it has
//! told once in answer to a question for infos or for a closure, for as long as it lives, whatever it is asked then.

use std::collections::BTreeMap;

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::put_u64;
use ssh_substituter::wire::serve::extension::{self, RequestDecoder, is_feature_path};
use ssh_substituter::wire::serve::{
    Incoming, Request, SERVER_MAGIC, Version, put_info, put_infos_end, put_set, take_client_hello,
};

use super::host::Far;
use super::link::Gone;
use super::parts;
use super::store::Store;

/// The version of Nix 2.8's.
pub const VERSION: Version = Version::new(2, 7);

/// How much of a NAR is printed at once, in bytes.
const PIECE: u64 = 64 << 10;

/// What one program has told.
#[derive(Default)]
struct Told(BTreeMap<StorePath, Option<PathInfo>>);

impl Told {
    fn info(&mut self, store: &Store, path: &StorePath) -> Option<PathInfo> {
        let look = || store.get(path).map(|copy| copy.info.clone());
        self.0.entry(path.clone()).or_insert_with(look).clone()
    }

    /// Keeps nothing in mind.
    fn is_valid(&self, store: &Store, path: &StorePath) -> bool {
        match self.0.get(path) {
            Some(told) => told.is_some(),
            None => store.get(path).is_some(),
        }
    }
}

/// Serves until the other end ends; the exit status.
pub async fn run(far: &mut Far) -> Result<i32, Gone> {
    let theirs = loop {
        match take_client_hello(&mut far.buf) {
            Ok(Some(theirs)) => break theirs,
            Ok(None) => {}
            Err(_) => {
                far.complain("error: protocol mismatch\n");
                return Ok(1);
            }
        }
        if !far.read().await {
            return Ok(1);
        }
    };
    let mut out = Vec::new();
    put_u64(&mut out, SERVER_MAGIC);
    let newest = match far.host.plan.is_ours {
        true => Version::NEWEST,
        false => VERSION,
    };
    put_u64(&mut out, newest.number());
    far.print(out.into(), false).await?;
    let Some(version) = newest.negotiate(theirs) else {
        return Ok(1);
    };
    let mut requests = RequestDecoder::new(far.host.plan.is_ours);
    let mut told = Told::default();
    loop {
        let Ok(step) = requests.step(&mut far.buf) else {
            return Ok(1);
        };
        match step {
            Some(extension::Incoming::Extension(request)) => parts::answer(far, request).await?,
            Some(extension::Incoming::Serve(Incoming::Request(request))) => {
                if let Some(status) = answer(far, &mut told, version, request).await? {
                    return Ok(status);
                }
            }
            Some(_) => return Ok(1),
            None if far.read().await => {}
            None => return Ok(0),
        }
    }
}

/// The exit status, where the question ends the program.
async fn answer(
    far: &mut Far,
    told: &mut Told,
    version: Version,
    request: Request,
) -> Result<Option<i32>, Gone> {
    let host = far.host.clone();
    let store = &host.store;
    let mut out = Vec::new();
    match request {
        Request::QueryValidPaths { mut paths, .. } => {
            let is_ours = host.plan.is_ours;
            let is_valid = |path: &StorePath| is_ours && is_feature_path(path);
            paths.retain(|path| is_valid(path) || told.is_valid(store, path));
            paths.sort();
            paths.dedup();
            put_set(&mut out, &paths);
        }
        Request::QueryPathInfos { mut paths } => {
            host.note(format_args!("infos of {} paths", paths.len()));
            paths.sort();
            paths.dedup();
            for path in paths {
                if let Some(info) = told.info(store, &path) {
                    put_info(&mut out, version, &info);
                }
            }
            put_infos_end(&mut out);
        }
        Request::QueryClosure { paths, .. } => {
            host.note(format_args!("closure of {} paths", paths.len()));
            match Store::closure(&paths, |path| told.info(store, path)) {
                Ok(closure) => put_set(&mut out, &closure.into_iter().collect::<Vec<_>>()),
                Err(path) => {
                    far.complain(&format!("error: path '{}' is not valid\n", path.as_str()));
                    return Ok(Some(1));
                }
            }
        }
        Request::DumpStorePath { path } => return dump(far, told, &path).await,
    }
    far.print(out.into(), false).await?;
    Ok(None)
}

async fn dump(far: &mut Far, told: &mut Told, path: &StorePath) -> Result<Option<i32>, Gone> {
    let host = far.host.clone();
    host.note(format_args!("dump of {}", path.name()));
    if !told.is_valid(&host.store, path) {
        far.complain(&format!("error: path '{}' is not valid\n", path.as_str()));
        return Ok(Some(1));
    }
    let Some(copy) = host.store.get(path) else {
        let path = path.as_str();
        far.complain(&format!(
            "error: getting status of '{path}': No such file or directory\n"
        ));
        return Ok(Some(1));
    };
    let size = copy.item.size();
    let mut at = 0;
    while at < size {
        let len = PIECE.min(size - at);
        far.print(copy.bytes(at, len), true).await?;
        at += len;
    }
    far.finish();
    Ok(None)
}
