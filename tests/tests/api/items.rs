//! The public items of a crate, one per line: the path by which other crates name it, and its
//! declaration.

use super::source::{Modules, is_public_item, read};
use super::text;
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::{
    Attribute, Fields, FnArg, ImplItem, Item, ItemImpl, Pat, Signature, TraitItem, Type, UseTree,
};

type Place = (Vec<String>, String);

/// What a name refers to.
enum Referent {
    /// An item of the crate, by its definition.
    Item(Place),
    /// A module of the crate.
    Module(Vec<String>),
    /// An item of another crate.
    Foreign(String),
}

struct Crate<'a> {
    name: &'a str,
    modules: Modules,
    /// The public path of each item, by its definition.
    exported: BTreeMap<Place, String>,
    lines: BTreeSet<String>,
}

/// Lists the public items of a crate.
pub fn public(name: &str, lib: &Path) -> String {
    let mut this = Crate {
        name,
        modules: read(lib),
        exported: BTreeMap::new(),
        lines: BTreeSet::new(),
    };
    this.module(&[], name);
    this.impls();
    this.lines.iter().map(|line| format!("{line}\n")).collect()
}

impl Crate<'_> {
    fn line(&mut self, path: &str, what: &str) {
        self.lines.insert(format!("{path}: {what}"));
    }

    /// Collects the exports of a module. Names nearer to the root come first, so that an item
    /// gets its shortest path.
    fn module(&mut self, module: &[String], path: &str) {
        let mut below = Vec::new();
        for (name, found) in self.exports(module) {
            let path = format!("{path}::{name}");
            match found {
                Referent::Item(place) => self.item(place, &path),
                Referent::Module(module) => below.push((module, path)),
                Referent::Foreign(what) => self.line(&path, &format!("use {what}")),
            }
        }
        for (module, path) in below {
            self.line(&path, "mod");
            self.module(&module, &path);
        }
    }

    /// The public names of a module, and what they refer to.
    fn exports(&self, module: &[String]) -> Vec<(String, Referent)> {
        let mut found = Vec::new();
        for item in &self.modules[module].items {
            if let Item::Mod(m) = item {
                let below = [module, &[m.ident.to_string()]].concat();
                if self
                    .modules
                    .get(&below)
                    .is_some_and(|below| below.is_public)
                {
                    found.push((m.ident.to_string(), Referent::Module(below)));
                }
            } else if let Some(name) = public_name(item) {
                found.push((name.clone(), Referent::Item((module.to_vec(), name))));
            }
        }
        for (name, path) in self.uses(module) {
            found.push((name, self.resolve(module, &path)));
        }
        found
    }

    /// The public names that a module re-exports, and their paths.
    fn uses(&self, module: &[String]) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        for item in &self.modules[module].items {
            if let Item::Use(u) = item
                && is_public_item(&u.vis, &u.attrs)
            {
                leaves(Vec::new(), &u.tree, &mut found);
            }
        }
        found
    }

    /// Resolves a path in a module; private names count, as for the compiler.
    fn resolve(&self, module: &[String], path: &[String]) -> Referent {
        let (mut at, mut rest) = (module.to_vec(), path);
        while let Some((first, tail)) = rest.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                _ => break,
            }
            rest = tail;
        }
        while let Some((first, tail)) = rest.split_first() {
            let below = [at.as_slice(), std::slice::from_ref(first)].concat();
            if !self.modules.contains_key(&below) {
                break;
            }
            (at, rest) = (below, tail);
        }
        let Some((name, [])) = rest.split_first() else {
            return match rest {
                [] => Referent::Module(at),
                _ => Referent::Foreign(path.join("::")),
            };
        };
        if self.defined(&at, name).is_some() {
            return Referent::Item((at, name.clone()));
        }
        let again = self.uses(&at).into_iter();
        let mut again = again.filter(|(exported, _)| exported == name && at != module);
        again
            .next()
            .map_or(Referent::Foreign(path.join("::")), |(_, path)| {
                self.resolve(&at, &path)
            })
    }

    fn defined(&self, module: &[String], name: &str) -> Option<&Item> {
        let items = &self.modules[module].items;
        items
            .iter()
            .find(|item| any_name(item).is_some_and(|found| found == name))
    }

    fn item(&mut self, place: Place, path: &str) {
        if let Some(known) = self.exported.get(&place) {
            let known = format!("is {known}");
            return self.line(path, &known);
        }
        let item = self
            .defined(&place.0, &place.1)
            .expect("resolved above")
            .clone();
        self.exported.insert(place, path.to_owned());
        for line in declaration(&item) {
            self.line(path, &line);
        }
    }

    /// Collects methods and trait implementations of exported types, wherever they are defined.
    fn impls(&mut self) {
        let mut lines = Vec::new();
        for (module, content) in &self.modules {
            for item in &content.items {
                let Item::Impl(found) = item else { continue };
                let of_type = self.path_of(module, &type_name(&found.self_ty));
                match &found.trait_ {
                    None => {
                        let path = of_type.into_iter();
                        lines.extend(path.flat_map(|path| methods(&path, found)));
                    }
                    Some((named, _)) => {
                        let name = named.segments.last().map(|part| part.ident.to_string());
                        let of_trait = self.path_of(module, &name.unwrap_or_default());
                        let header = header(found);
                        let path = of_type.or(of_trait).into_iter();
                        lines.extend(path.map(|path| (path, header.clone())));
                    }
                }
            }
        }
        for (path, line) in lines {
            self.line(&path, &line);
        }
    }

    /// The exported path of a type or trait, as named in a module.
    fn path_of(&self, module: &[String], name: &str) -> Option<String> {
        let here = (module.to_vec(), name.to_owned());
        if self.defined(module, name).is_some() {
            return self.exported.get(&here).cloned();
        }
        let mut named = self.exported.iter().filter(|((_, found), _)| found == name);
        let path = named.next().map(|(_, path)| path.clone());
        assert!(named.next().is_none(), "{} has two items {name}", self.name);
        path
    }
}

/// The names at the leaves of a `use` tree, and their paths.
fn leaves(mut path: Vec<String>, tree: &UseTree, found: &mut Vec<(String, Vec<String>)>) {
    match tree {
        UseTree::Path(part) => {
            path.push(part.ident.to_string());
            leaves(path, &part.tree, found);
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                leaves(path.clone(), tree, found);
            }
        }
        UseTree::Name(name) => {
            path.push(name.ident.to_string());
            found.push((name.ident.to_string(), path));
        }
        UseTree::Rename(name) => {
            path.push(name.ident.to_string());
            found.push((name.rename.to_string(), path));
        }
        UseTree::Glob(_) => panic!(
            "{}::* is not supported here; list the items",
            path.join("::")
        ),
    }
}

/// The name of an item, if other crates can name it.
fn public_name(item: &Item) -> Option<String> {
    let (visibility, attributes) = match item {
        Item::Const(i) => (&i.vis, &i.attrs),
        Item::Enum(i) => (&i.vis, &i.attrs),
        Item::Fn(i) => (&i.vis, &i.attrs),
        Item::Static(i) => (&i.vis, &i.attrs),
        Item::Struct(i) => (&i.vis, &i.attrs),
        Item::Trait(i) => (&i.vis, &i.attrs),
        Item::Type(i) => (&i.vis, &i.attrs),
        Item::Union(i) => (&i.vis, &i.attrs),
        _ => return None,
    };
    any_name(item).filter(|_| is_public_item(visibility, attributes))
}

fn any_name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(i) => &i.ident,
        Item::Enum(i) => &i.ident,
        Item::Fn(i) => &i.sig.ident,
        Item::Static(i) => &i.ident,
        Item::Struct(i) => &i.ident,
        Item::Trait(i) => &i.ident,
        Item::Type(i) => &i.ident,
        Item::Union(i) => &i.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// The declaration of an item, without its methods.
fn declaration(item: &Item) -> Vec<String> {
    let mut lines = Vec::new();
    match item {
        Item::Const(i) => lines.push(format!(
            "const {}: {} = {}",
            i.ident,
            text::of(&i.ty),
            text::of(&i.expr)
        )),
        Item::Fn(i) => lines.push(signature(&i.sig)),
        Item::Type(i) => lines.push(format!(
            "type {}{} = {}",
            i.ident,
            text::of(&i.generics),
            text::of(&i.ty)
        )),
        Item::Struct(i) => {
            let bounds = text::of(&i.generics.where_clause);
            let head = format!("struct {}{}{bounds}", i.ident, text::of(&i.generics));
            let has_private = lines_of_fields("field", &i.fields, true, &mut lines);
            let rest = if has_private { " { .. }" } else { "" };
            lines.push(format!("{head}{rest}"));
            lines.extend(attributes(&i.attrs));
        }
        Item::Enum(i) => {
            lines.push(format!("enum {}{}", i.ident, text::of(&i.generics)));
            lines.extend(attributes(&i.attrs));
            for variant in &i.variants {
                let name = &variant.ident;
                let number = variant.discriminant.as_ref();
                let number = number.map_or(String::new(), |(_, n)| format!(" = {}", text::of(n)));
                lines.push(format!("variant {name}{number}"));
                lines_of_fields(
                    &format!("variant {name}, field"),
                    &variant.fields,
                    false,
                    &mut lines,
                );
            }
        }
        Item::Trait(i) => {
            let above = text::of(&i.supertraits);
            let above = if above.is_empty() {
                above
            } else {
                format!(": {above}")
            };
            lines.push(format!("trait {}{}{above}", i.ident, text::of(&i.generics)));
            lines.extend(i.items.iter().filter_map(of_trait));
        }
        other => panic!("not supported here: {}", text::of(other.to_token_stream())),
    }
    lines
}

/// Adds a line for each public field. Returns whether there are private ones.
fn lines_of_fields(what: &str, fields: &Fields, need_pub: bool, lines: &mut Vec<String>) -> bool {
    let mut has_private = false;
    for (at, field) in fields.iter().enumerate() {
        if need_pub && !is_public_item(&field.vis, &field.attrs) {
            has_private = true;
            continue;
        }
        let name = field
            .ident
            .as_ref()
            .map_or(at.to_string(), ToString::to_string);
        lines.push(format!("{what} {name}: {}", text::of(&field.ty)));
    }
    has_private
}

/// The attributes that affect how others can use a type; for a derive, each trait.
fn attributes(attributes: &[Attribute]) -> Vec<String> {
    let mut lines = Vec::new();
    for attribute in attributes {
        let path = attribute.path();
        if path.is_ident("derive") {
            let list = attribute
                .meta
                .require_list()
                .expect("a list")
                .tokens
                .clone();
            let traits = text::of(list);
            lines.extend(traits.split(", ").map(|name| format!("derive {name}")));
        }
        let told = ["non_exhaustive", "repr", "must_use"];
        if told.iter().any(|name| path.is_ident(name)) {
            lines.push(text::of(attribute));
        }
    }
    lines
}

fn of_trait(item: &TraitItem) -> Option<String> {
    match item {
        TraitItem::Fn(f) => {
            let provided = if f.default.is_some() { "provided " } else { "" };
            Some(format!("{provided}{}", signature(&f.sig)))
        }
        TraitItem::Const(c) => Some(format!("const {}: {}", c.ident, text::of(&c.ty))),
        TraitItem::Type(t) => Some(format!("type {}{}", t.ident, text::of(&t.bounds))),
        _ => None,
    }
}

/// A function's signature. `mut` on its parameters is not part of the API.
fn signature(signature: &Signature) -> String {
    let mut signature = signature.clone();
    for input in &mut signature.inputs {
        match input {
            // The `mut` of a reference is part of its kind.
            FnArg::Receiver(this) => this.mutability = None,
            FnArg::Typed(typed) => {
                if let Pat::Ident(name) = &mut *typed.pat {
                    name.mutability = None;
                }
            }
        }
    }
    text::of(&signature)
}

fn methods(path: &str, found: &ItemImpl) -> Vec<(String, String)> {
    let bounds = text::of(&found.generics);
    let bounds = if bounds.is_empty() {
        bounds
    } else {
        format!("impl{bounds} ")
    };
    let items = found.items.iter().filter_map(|item| match item {
        ImplItem::Fn(f) if is_public_item(&f.vis, &f.attrs) => Some(signature(&f.sig)),
        ImplItem::Const(c) if is_public_item(&c.vis, &c.attrs) => Some(format!(
            "const {}: {} = {}",
            c.ident,
            text::of(&c.ty),
            text::of(&c.expr)
        )),
        _ => None,
    });
    items
        .map(|item| (path.to_owned(), format!("{bounds}{item}")))
        .collect()
}

/// The header of an `impl`, with its types and bounds.
fn header(found: &ItemImpl) -> String {
    let mut header = found.clone();
    header
        .items
        .retain(|item| matches!(item, ImplItem::Type(_)));
    header.attrs.clear();
    let text = text::of(&header);
    text.trim_end_matches("{}").trim_end().to_owned()
}

fn type_name(of: &Type) -> String {
    match of {
        Type::Path(path) => path.path.segments.last().map(|part| part.ident.to_string()),
        Type::Reference(reference) => Some(type_name(&reference.elem)),
        _ => None,
    }
    .unwrap_or_default()
}
