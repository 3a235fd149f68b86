//! From a request to a response.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode};

use super::nar_body::{NarBody, Wanted};
use super::nar_name::NarName;
use super::range::Range;
use super::route::Route;
use super::status::Counters;
use super::{Client, Clients, Options, PackedFor, host_check, listing, metrics, page};
use crate::model::{HashPart, NarHash, PathInfo, SecretKey};
use crate::wire::narinfo::{self, NarFile};

/// `Priority` in `nix-cache-info`: before cache.nixos.org, which has 40.
const PRIORITY: u32 = 30;

const TEXT: &str = "text/plain; charset=utf-8";
const NARINFO: &str = "text/x-nix-narinfo";
const NAR: &str = "application/x-nix-nar";
const PACKED_NAR: &str = "application/zstd";
const JSON: &str = "application/json";

/// The name of a NAR says what is in it.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// The same where a password is needed: a cache in between is not to give it to others.
const FOR_ONE: &str = "private, max-age=31536000, immutable";
/// Whether a host has a path now is asked anew.
const NOT_AT_ALL: &str = "no-store";

pub(super) type ResponseBody = Either<Full<Bytes>, NarBody>;

/// Answers requests.
pub struct Service {
    clients: Arc<dyn Clients>,
    options: Options,
    counters: Arc<Counters>,
}

impl Service {
    /// Answers with what the backends of `clients` say.
    #[must_use]
    pub fn new(clients: Arc<dyn Clients>, options: Options) -> Self {
        Self {
            clients,
            options,
            counters: Arc::default(),
        }
    }

    pub(super) fn connect(&self, peer: IpAddr) -> Box<dyn Client> {
        self.clients.connect(peer)
    }

    /// Answers one request, which came in at the address `local`.
    pub(super) async fn answer<B>(
        &self,
        request: &Request<B>,
        local: IpAddr,
        client: &dyn Client,
    ) -> Response<ResponseBody> {
        let mut response = self.choose(request, local, client).await;
        log::debug!(
            "{} {}: {}",
            request.method(),
            request.uri().path(),
            response.status().as_u16()
        );
        let server = concat!("ssh-substituter/", env!("CARGO_PKG_VERSION"));
        set(&mut response, header::SERVER, server);
        let caching = response.headers_mut().entry(header::CACHE_CONTROL);
        caching.or_insert(HeaderValue::from_static(NOT_AT_ALL));
        response
    }

    async fn choose<B>(
        &self,
        request: &Request<B>,
        local: IpAddr,
        client: &dyn Client,
    ) -> Response<ResponseBody> {
        if !host_check::is_meant(request, local) {
            let why = "this server answers to names and addresses of loopback alone\n";
            return text(StatusCode::MISDIRECTED_REQUEST, TEXT, why);
        }
        if !self.may_read(request, local) {
            let mut refused = text(
                StatusCode::UNAUTHORIZED,
                TEXT,
                "a name and a password are needed\n",
            );
            let asked = "Basic realm=\"ssh-substituter\", charset=\"UTF-8\"";
            set(&mut refused, header::WWW_AUTHENTICATE, asked);
            return refused;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(
                StatusCode::METHOD_NOT_ALLOWED,
                TEXT,
                "this cache is only read\n",
            );
            set(&mut refused, header::ALLOW, "GET, HEAD");
            return refused;
        }
        match Route::parse(request.uri().path(), &self.options.store_dir) {
            None => absent(),
            Some(Route::Health) => text(StatusCode::OK, TEXT, "ok\n"),
            Some(Route::Page) => self.page(request),
            Some(Route::Metrics) => {
                let numbers = metrics::render(&self.clients.status(), self.counters.served());
                text(StatusCode::OK, metrics::CONTENT_TYPE, numbers)
            }
            Some(Route::CacheInfo) => self.cache_info(),
            Some(Route::Narinfo(hash)) => {
                let found = self.narinfo(hash, local, client).await;
                self.counters.add_narinfo(found.is_some());
                found.unwrap_or_else(absent)
            }
            Some(Route::Listing(hash)) => {
                let listing = listing::of(hash, client).await;
                listing.map_or_else(absent, |listing| text(StatusCode::OK, JSON, listing))
            }
            Some(Route::Log(derivation)) => {
                let log = client.backend().build_log(&derivation).await;
                let log = log.map_err(|error| log::error!("{error}")).ok().flatten();
                log.map_or_else(absent, |log| text(StatusCode::OK, TEXT, log))
            }
            Some(Route::Nar(name)) => {
                let is_head = request.method() == Method::HEAD;
                let found = self.nar(name, request.headers(), is_head, client).await;
                found.unwrap_or_else(absent)
            }
        }
    }

    /// Whether the client may read. Passwords are for clients that come from other machines.
    fn may_read<B>(&self, request: &Request<B>, local: IpAddr) -> bool {
        match &self.options.passwords {
            Some(passwords) if !local.to_canonical().is_loopback() => {
                passwords.allow(request.headers())
            }
            _ => true,
        }
    }

    /// Adds the signature of this server. Content-addressed paths need none; those of hosts that are not trusted are checked
    /// against their address only when they are delivered, so nothing may be signed of them before.
    fn sign(&self, info: &mut PathInfo) {
        let Some(key) = &self.options.signing_key else {
            return;
        };
        if info.content().is_ok() {
            return;
        }
        if let Some(fingerprint) = info.fingerprint() {
            let signature = key.sign(&fingerprint);
            if !info.sigs.contains(&signature) {
                info.sigs.push(signature);
            }
        }
    }

    fn cache_info(&self) -> Response<ResponseBody> {
        let info = format!(
            "StoreDir: {}\nWantMassQuery: 1\nPriority: {PRIORITY}\n",
            self.options.store_dir
        );
        text(StatusCode::OK, "text/x-nix-cache-info", info)
    }

    fn page<B>(&self, request: &Request<B>) -> Response<ResponseBody> {
        let header = request.headers().get(header::HOST);
        let header = header.and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(Authority::as_str);
        let key = self.options.signing_key.as_ref();
        let key = key.map(SecretKey::to_public_text);
        let page = page::render(
            &self.clients.status(),
            self.counters.served(),
            authority.or(header).unwrap_or("ADDRESS:PORT"),
            key.as_deref(),
        );
        let mut response = text(StatusCode::OK, "text/html; charset=utf-8", page);
        set(&mut response, header::CONTENT_SECURITY_POLICY, page::POLICY);
        response
    }

    /// Whether a client that came in at this address is told to fetch NARs compressed.
    fn is_packed_for(&self, local: IpAddr) -> bool {
        match self.options.packed_for {
            PackedFor::Others => !local.to_canonical().is_loopback(),
            PackedFor::All => true,
            PackedFor::Nobody => false,
        }
    }

    async fn narinfo(
        &self,
        hash: HashPart,
        local: IpAddr,
        client: &dyn Client,
    ) -> Option<Response<ResponseBody>> {
        let info = client.backend().info_by_hash(hash).await;
        let mut info = info.map_err(|error| log::error!("{error}")).ok()??;
        self.sign(&mut info);
        let Some(nar_hash) = servable(&info) else {
            log::warn!(
                "{}: not served, since its host is too old to report its NAR hash",
                info.path
            );
            return None;
        };
        let name = NarName {
            path: info.path.clone(),
            hash: nar_hash,
            is_packed: self.is_packed_for(local),
        };
        let (compression, file) = match name.is_packed {
            true => ("zstd", None),
            false => ("none", Some((nar_hash, info.nar_size))),
        };
        let nar = NarFile {
            url: &name.url(),
            compression,
            file,
            nar_hash,
            nar_size: info.nar_size,
        };
        Some(text(StatusCode::OK, NARINFO, narinfo::render(&info, &nar)))
    }

    async fn nar(
        &self,
        name: NarName,
        headers: &HeaderMap,
        is_head: bool,
        client: &dyn Client,
    ) -> Option<Response<ResponseBody>> {
        let backend = client.backend();
        let infos = backend.path_infos(std::slice::from_ref(&name.path)).await;
        let infos = infos.map_err(|error| log::error!("{error}")).ok()?;
        let info = infos.into_iter().find(|info| info.path == name.path)?;
        if servable(&info) != Some(name.hash) {
            log::debug!("{}: its NAR is another one by now", name.path);
            return None;
        }
        let (size, tag) = (info.nar_size, format!("\"{}\"", name.hash.base32()));
        let is_packed = name.is_packed;
        let asked = match is_packed {
            true => Range::Whole,
            false => range(headers, &tag, size),
        };
        let (status, start, len) = match asked {
            Range::Whole => (StatusCode::OK, 0, size),
            Range::Part { start, len } => (StatusCode::PARTIAL_CONTENT, start, len),
            Range::Unsatisfiable => {
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let mut refused = text(status, TEXT, "there are no such bytes\n");
                set(
                    &mut refused,
                    header::CONTENT_RANGE,
                    &format!("bytes */{size}"),
                );
                return Some(refused);
            }
        };
        let body = match is_head {
            true => Either::Left(Full::default()),
            false => {
                let wanted = Wanted {
                    start,
                    len,
                    size,
                    is_packed,
                };
                let body = NarBody::start(backend, name.path, wanted, self.counters.clone());
                let body = body.await.ok()?;
                self.counters.add_nar();
                Either::Right(body)
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if is_packed {
            // How long it gets is known only at its end.
            set(&mut response, header::CONTENT_TYPE, PACKED_NAR);
            set(&mut response, header::ACCEPT_RANGES, "none");
        } else {
            set(&mut response, header::CONTENT_TYPE, NAR);
            set(&mut response, header::CONTENT_LENGTH, &len.to_string());
            set(&mut response, header::ACCEPT_RANGES, "bytes");
            set(&mut response, header::ETAG, &tag);
        }
        let caching = match self.options.passwords {
            Some(_) => FOR_ONE,
            None => FOR_EVER,
        };
        set(&mut response, header::CACHE_CONTROL, caching);
        if status == StatusCode::PARTIAL_CONTENT {
            let last = start + len - 1;
            let range = format!("bytes {start}-{last}/{size}");
            set(&mut response, header::CONTENT_RANGE, &range);
        }
        Some(response)
    }
}

/// The NAR hash of a path that can be served: its size must be known, too.
fn servable(info: &PathInfo) -> Option<NarHash> {
    info.nar_hash.filter(|_| info.nar_size > 0)
}

/// The part that is asked for of a body with this tag and so many bytes.
fn range(headers: &HeaderMap, tag: &str, size: u64) -> Range {
    let value = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    // The client has the beginning of another body.
    if value(header::IF_RANGE).is_some_and(|known| known != tag.as_bytes()) {
        return Range::Whole;
    }
    let asked = value(header::RANGE).and_then(|value| std::str::from_utf8(value).ok());
    asked.map_or(Range::Whole, |asked| Range::parse(asked, size))
}

fn absent() -> Response<ResponseBody> {
    text(StatusCode::NOT_FOUND, TEXT, "not found\n")
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, kind);
    response
}

fn set(response: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    // All values are visible ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests;
