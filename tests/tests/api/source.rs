//! Parses the modules of a crate from its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use syn::{Attribute, Item, Visibility};

/// The items of each module, by the module's path, which is empty for the root.
pub type Modules = BTreeMap<Vec<String>, Module>;

/// A module.
pub struct Module {
    pub items: Vec<Item>,
    /// Whether it is `pub` in its parent.
    pub is_public: bool,
}

/// Parses a crate, without its `cfg(test)` code.
pub fn read(lib: &Path) -> Modules {
    let mut modules = Modules::new();
    let folder = lib.parent().expect("a folder");
    add(&mut modules, Vec::new(), true, parse(lib), folder);
    modules
}

fn parse(file: &Path) -> Vec<Item> {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    parsed.items
}

fn add(modules: &mut Modules, path: Vec<String>, is_public: bool, items: Vec<Item>, folder: &Path) {
    for item in &items {
        let Item::Mod(module) = item else { continue };
        if is_for_tests(&module.attrs) {
            continue;
        }
        let name = module.ident.to_string();
        let is_public = is_public_item(&module.vis, &module.attrs);
        let below = folder.join(&name);
        let items = match &module.content {
            Some((_, items)) => items.clone(),
            None if below.join("mod.rs").is_file() => parse(&below.join("mod.rs")),
            None => parse(&below.with_extension("rs")),
        };
        let path = [path.as_slice(), &[name]].concat();
        add(modules, path, is_public, items, &below);
    }
    modules.insert(path, Module { items, is_public });
}

/// Reports whether others can name an item: it is `pub` and not hidden from the documentation.
pub fn is_public_item(visibility: &Visibility, attributes: &[Attribute]) -> bool {
    matches!(visibility, Visibility::Public(_)) && !is_hidden(attributes)
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    has_list(attributes, "doc", "hidden")
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    has_list(attributes, "cfg", "test")
}

fn has_list(attributes: &[Attribute], name: &str, word: &str) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list();
        attribute.path().is_ident(name) && list.is_ok_and(|list| list.tokens.to_string() == word)
    })
}
