//! Numbers that no honest host sends, and as much of everything as a host can send.

use ssh_substituter::model::{PathInfo, StorePath};
use ssh_substituter::wire::{put_string, put_u64};

use super::host::{Attack, Io, Line, World, infos_reply};
use super::scene::Scene;

/// Says something else of each path than is so.
pub struct Tells<F>(pub F);

impl<F: Fn(&mut PathInfo) + Send + Sync> Attack for Tells<F> {
    fn infos(&self, line: &mut Line, world: &World, asked: &[StorePath]) -> Io {
        let known = asked.iter().filter_map(|path| world.0.get(path));
        let mut infos: Vec<_> = known.map(|(info, _)| info.clone()).collect();
        infos.iter_mut().for_each(&self.0);
        line.out(&infos_reply(&infos))
    }
}

/// Begins a reply to QueryPathInfos with these bytes, then goes on and on with those.
struct Endless {
    begins: fn(&StorePath) -> Vec<u8>,
    goes_on: fn(u64) -> Vec<u8>,
}

impl Attack for Endless {
    fn infos(&self, line: &mut Line, _: &World, asked: &[StorePath]) -> Io {
        line.out(&(self.begins)(&asked[0]))?;
        let mut number = 0;
        loop {
            let mut piece = Vec::new();
            while piece.len() < 64 << 10 {
                piece.extend_from_slice(&(self.goes_on)(number));
                number += 1;
            }
            line.out(&piece)?;
        }
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, bytes);
    out
}

fn numbered(number: u64, name: &str) -> Vec<u8> {
    string(format!("/nix/store/{number:032}-{name}").as_bytes())
}

/// An info up to its references, of which there are a million.
fn million(path: &StorePath) -> Vec<u8> {
    let mut out = string(path.as_str().as_bytes());
    out.extend(string(b""));
    put_u64(&mut out, 1_000_000);
    out
}

#[test]
fn nar_sizes_near_the_end_of_numbers() {
    let scene = Scene::new();
    for size in [u64::MAX, (1 << 63) - 1] {
        for path in [&scene.small, &scene.large] {
            let attack = move || Tells(move |info: &mut PathInfo| info.nar_size = size);
            scene.survives(attack, path, &["NAR size", &size.to_string()]);
        }
    }
}

#[test]
fn download_sizes_near_the_end_of_numbers() {
    let scene = Scene::new();
    let attack = || Tells(|info: &mut PathInfo| info.download_size = u64::MAX);
    scene.survives(attack, &scene.small, &["download size"]);
}

#[test]
fn a_million_references() {
    let scene = Scene::new();
    let attack = || Endless {
        begins: million,
        goes_on: |number| numbered(number, &"x".repeat(211)),
    };
    scene.survives(attack, &scene.small, &["the reply to QueryPathInfos", "references"]);
    let long = || Endless {
        begins: million,
        goes_on: |number| {
            let path = format!("/{}/{number:032}-x", "d/".repeat(2000));
            string(path.as_bytes())
        },
    };
    scene.survives(long, &scene.small, &["the reply to QueryPathInfos"]);
}
