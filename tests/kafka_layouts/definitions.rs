//! Kafka's message definitions, as its code generator reads them: JSON with comments.

use std::path::Path;

use acktrail::protocol::kafka::Versions;
use serde_json::Value;

/// One message's definition.
pub struct Definition {
    json: Value,
    pub key: Option<i16>,
    pub valid: Versions,
    pub latest_is_unstable: bool,
    pub flexible: Versions,
}

/// A field of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub depth: usize,
    pub name: String,
    pub kind: String,
    pub nullable: bool,
    pub tag: Option<u32>,
}

impl Definition {
    /// Reads a definition; `None` if there is no such file.
    pub fn load(path: &Path) -> Option<Definition> {
        let folder = path.parent().expect("a folder");
        assert!(folder.is_dir(), "{} is missing: scripts/deps.sh test", folder.display());
        let text = std::fs::read_to_string(path).ok()?;
        let json: Value = serde_json::from_str(&without_comments(&text)).expect("JSON");
        Some(Definition {
            key: json["apiKey"].as_i64().map(|key| key as i16),
            valid: versions(&json["validVersions"]),
            latest_is_unstable: json["latestVersionUnstable"] == true,
            flexible: versions(&json["flexibleVersions"]),
            json,
        })
    }

    /// The fields that a version has, those of structs behind these. Tagged fields come last, as on the wire.
    pub fn entries(&self, version: i16) -> Vec<Entry> {
        self.list(&self.json["fields"], version, 0)
    }

    fn list(&self, fields: &Value, version: i16, depth: usize) -> Vec<Entry> {
        let mut list: Vec<Vec<Entry>> = Vec::new();
        for field in fields.as_array().expect("a list of fields") {
            if !versions(&field["versions"]).contains(version) {
                continue;
            }
            // Only the request's header has one, whose client id is old-style in all versions.
            assert!(field.get("flexibleVersions").is_none(), "{field}");
            let kind = field["type"].as_str().expect("a type");
            let (array, element) = kind.strip_prefix("[]").map_or(("", kind), |element| ("[]", element));
            let inner = field.get("fields").or_else(|| self.common(element));
            let tagged = versions(&field["taggedVersions"]).contains(version);
            let entry = Entry {
                depth,
                name: field["name"].as_str().expect("a name").to_owned(),
                kind: format!("{array}{}", if inner.is_some() { "struct" } else { element }),
                nullable: versions(&field["nullableVersions"]).contains(version),
                tag: tagged.then(|| field["tag"].as_u64().expect("a tag") as u32),
            };
            let inner = inner.map_or_else(Vec::new, |inner| self.list(inner, version, depth + 1));
            list.push([vec![entry], inner].concat());
        }
        list.sort_by_key(|entries| entries[0].tag);
        list.concat()
    }

    /// The fields of a struct that several fields share.
    fn common(&self, name: &str) -> Option<&Value> {
        let structs = self.json["commonStructs"].as_array()?;
        structs.iter().find(|one| one["name"] == name).map(|one| &one["fields"])
    }
}

fn versions(json: &Value) -> Versions {
    let number = |text: &str| text.parse().expect("a version");
    match json.as_str() {
        None | Some("none") => Versions::NONE,
        Some(text) => match text.split_once('-') {
            Some((first, last)) => Versions { first: number(first), last: number(last) },
            None if text.ends_with('+') => Versions { first: number(&text[..text.len() - 1]), last: i16::MAX },
            None => Versions { first: number(text), last: number(text) },
        },
    }
}

/// Comments reach from `//` to the line's end, but not inside of strings.
fn without_comments(text: &str) -> String {
    let mut result = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut end = line.len();
        for (at, byte) in line.bytes().enumerate() {
            match byte {
                b'"' => in_string = !in_string,
                b'\\' => panic!("an escaped character: {line}"),
                b'/' if !in_string && line[at..].starts_with("//") => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        result += &line[..end];
        result.push('\n');
    }
    result
}
