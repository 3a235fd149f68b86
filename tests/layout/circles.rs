//! Import circles between modules.
//!
//! **The rule.** The modules of one folder, each with all that is below it, import each other in no circle.
//!
//! - File A imports file B if A names, outside its tests, an item that B defines. A `pub use` is a signpost and no import:
//!   whoever names an item through it imports the file in which the item is defined. Naming a module alone imports nothing.
//! - A file may use what its own ancestors define (`super::X` from a child), since it is a part of them.
//!
//! So `a.rs` and `b.rs` make a circle if each names an item of the other, and so do the folders `a/` and `b/` if any of
//! their files do.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::depth_of;
use crate::scan::{self, Named};

/// Which module of a folder imports which other one, and by what.
type Graph<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a Import>>>;

/// One import of a file by another one.
struct Import {
    /// The paths of their modules.
    from: Vec<String>,
    to: Vec<String>,
    /// `FILE:LINE imports FILE`.
    line: String,
}

/// How many `pub use` an item may be named through.
const MAX_HOPS: usize = 8;

struct File {
    /// The segments of its module's path below the root.
    module: Vec<String>,
    named: Vec<Named>,
    /// What `use` binds, as paths from the root of the crate.
    bindings: BTreeMap<String, Vec<String>>,
}

/// The files of a crate, by their modules' paths.
struct Crate {
    files: BTreeMap<String, File>,
    by_module: BTreeMap<Vec<String>, String>,
}

/// The circles among the modules of each folder, one text each: the modules, then the imports that make the circle.
pub fn circles(sources: &[(String, String)]) -> Vec<String> {
    let imports = Crate::read(sources).imports();
    let mut by_folder: BTreeMap<&[String], Graph> = BTreeMap::new();
    for import in &imports {
        let common = import
            .from
            .iter()
            .zip(&import.to)
            .take_while(|(from, to)| from == to)
            .count();
        // An ancestor was left out already; a descendant is part of its ancestor.
        if let (Some(from), Some(to)) = (import.from.get(common), import.to.get(common)) {
            let graph = by_folder.entry(&import.from[..common]).or_default();
            let edges = graph.entry(from.as_str()).or_default();
            edges.entry(to.as_str()).or_default().push(import);
        }
    }
    let all = by_folder.iter().flat_map(|(folder, graph)| {
        let found = strongly_connected(graph);
        found.into_iter().map(|circle| text(folder, graph, &circle))
    });
    all.collect()
}

/// The sets of modules each of which leads to all others of its set.
fn strongly_connected<'a>(graph: &Graph<'a>) -> Vec<BTreeSet<&'a str>> {
    let after: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|module| (*module, reachable(graph, module)))
        .collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for (module, reached) in &after {
        if reached.contains(module) && !found.iter().any(|circle| circle.contains(module)) {
            let leads_back = |other: &&&str| after.get(*other).is_some_and(|r| r.contains(module));
            found.push(reached.iter().filter(leads_back).copied().collect());
        }
    }
    found
}

fn reachable<'a>(graph: &Graph<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<&str> = vec![from];
    while let Some(module) = pending.pop() {
        for other in graph.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(*other) {
                pending.push(other);
            }
        }
    }
    found
}

fn text(folder: &[String], graph: &Graph, circle: &BTreeSet<&str>) -> String {
    let names: Vec<&str> = circle.iter().copied().collect();
    let folder = ["src"].into_iter().chain(folder.iter().map(String::as_str));
    let folder = folder.collect::<Vec<_>>().join("/");
    let mut text = format!("{folder}: {}", names.join(", "));
    for module in circle {
        for (other, imports) in &graph[module] {
            if circle.contains(other) {
                for import in imports {
                    text.push_str(&format!("\n  {module} -> {other}: {}", import.line));
                }
            }
        }
    }
    text
}

fn module_of(file: &str) -> Vec<String> {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
    match inside {
        "lib" => Vec::new(),
        _ => inside
            .trim_end_matches("/mod")
            .split('/')
            .map(str::to_owned)
            .collect(),
    }
}

impl Crate {
    fn read(sources: &[(String, String)]) -> Self {
        let is_test = |name: &str| name.ends_with("/tests.rs") || name.contains("/tests/");
        let mut files = BTreeMap::new();
        let mut by_module = BTreeMap::new();
        for (name, text) in sources.iter().filter(|(name, _)| !is_test(name)) {
            let module = module_of(name);
            let mut named = scan::named(text, depth_of(name));
            named.retain(|named| !named.in_test);
            by_module.insert(module.clone(), name.clone());
            let bindings = BTreeMap::new();
            let file = File {
                module,
                named,
                bindings,
            };
            files.insert(name.clone(), file);
        }
        let mut read = Self { files, by_module };
        let names: Vec<String> = read.files.keys().cloned().collect();
        for name in names {
            let file = &read.files[&name];
            let bound = file.named.iter().filter_map(|named| {
                let (binding, _) = named.binding.as_ref()?;
                Some((binding.clone(), read.absolute(file, named)?))
            });
            let bindings = bound.collect();
            if let Some(file) = read.files.get_mut(&name) {
                file.bindings = bindings;
            }
        }
        read
    }

    /// A path as seen from the root of the crate; `None` if it leads to another crate.
    fn absolute(&self, file: &File, named: &Named) -> Option<Vec<String>> {
        let segments = &named.segments;
        let supers = segments.iter().take_while(|s| *s == "super").count();
        let (base, rest) = match segments.first()?.as_str() {
            "crate" | "ssh_substituter" => (Vec::new(), &segments[1..]),
            "self" => (file.module.clone(), &segments[1..]),
            "super" => {
                let up = supers.saturating_sub(named.inline);
                let depth = file.module.len().checked_sub(up)?;
                (file.module[..depth].to_vec(), &segments[supers..])
            }
            first => {
                let child = [&file.module[..], &[first.to_owned()]].concat();
                if self.by_module.contains_key(&child) {
                    (file.module.clone(), &segments[..])
                } else if let Some(bound) = file.bindings.get(first) {
                    (bound.clone(), &segments[1..])
                } else {
                    return None;
                }
            }
        };
        Some([&base[..], rest].concat())
    }

    /// The file in which an item is defined; `None` for a module itself.
    fn definition(&self, path: &[String], hops: usize) -> Option<&str> {
        let mut module: Vec<String> = Vec::new();
        for (at, segment) in path.iter().enumerate() {
            let file = self.by_module.get(&module)?;
            let inner = [&module[..], std::slice::from_ref(segment)].concat();
            let is_last = at + 1 == path.len();
            let bound = self.files[file].bindings.get(segment);
            if self.by_module.contains_key(&inner) && !(is_last && bound.is_some()) {
                module = inner;
                continue;
            }
            return match bound {
                Some(bound) if hops > 0 && *bound != path[..=at] => {
                    let whole = [&bound[..], &path[at + 1..]].concat();
                    self.definition(&whole, hops - 1)
                }
                _ => Some(file),
            };
        }
        None
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = BTreeMap::new();
        for (name, file) in &self.files {
            for named in &file.named {
                if matches!(named.binding, Some((_, true))) {
                    continue;
                }
                let path = self.absolute(file, named);
                let Some(other) = path.and_then(|path| self.definition(&path, MAX_HOPS)) else {
                    continue;
                };
                let to = &self.files[other].module;
                if !file.module.starts_with(to) {
                    let line = format!("{name}:{} imports {other}", named.line);
                    let (from, to) = (file.module.clone(), to.clone());
                    let import = Import { from, to, line };
                    imports.entry((name, other)).or_insert(import);
                }
            }
        }
        imports.into_values().collect()
    }
}
