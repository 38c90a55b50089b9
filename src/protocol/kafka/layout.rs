//! Which layout a message has: by API key, direction and version.

use std::fmt;
use std::sync::LazyLock;

use super::field::Field;
use super::program::Program;
use super::table::{Kind, table};

/// Who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The client.
    Request,
    /// The broker.
    Response,
}

/// How one version of one message is read, from behind the fixed part of its header.
pub struct Layout {
    key: i16,
    name: &'static str,
    version: i16,
    pub(super) program: Program,
}

impl Layout {
    /// The layout of a request, or of a response to it. `None`: an API or a version that is not known.
    pub fn find(key: i16, direction: Direction, version: i16) -> Option<&'static Layout> {
        let [request, response] = LAYOUTS.apis.get(usize::try_from(key).ok()?)?;
        let span = if direction == Direction::Request { request } else { response };
        span.get(version)
    }

    /// The layout of a member's subscription or assignment in a classic group of consumers, and the bytes that it is of:
    /// those behind its version. One that is newer than we know begins like the newest that we know and may have more
    /// behind it (`ConsumerProtocol` in kafka-clients). `None`: it is neither, or has no version.
    pub fn of_membership(field: Field, bytes: &[u8]) -> Option<(&'static Layout, &[u8])> {
        let span = match field {
            Field::Subscription => &LAYOUTS.subscription,
            Field::Assignment => &LAYOUTS.assignment,
            _ => return None,
        };
        let (version, bytes) = bytes.split_first_chunk()?;
        let newest = span.first + span.layouts.len() as i16 - 1;
        Some((span.get(i16::from_be_bytes(*version).min(newest))?, bytes))
    }

    /// Whether an API is in the table, in whatever version.
    pub fn is_followed(key: i16) -> bool {
        let span = usize::try_from(key).ok().and_then(|key| LAYOUTS.apis.get(key));
        span.is_some_and(|[request, _]| !request.layouts.is_empty())
    }

    /// The API's key; -1 if it is none.
    pub fn key(&self) -> i16 {
        self.key
    }

    /// The API's name, such as `Produce`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The version.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// All that are known.
    pub fn all() -> impl Iterator<Item = &'static Layout> {
        let apis = LAYOUTS.apis.iter().flatten().chain([&LAYOUTS.subscription, &LAYOUTS.assignment]);
        apis.flat_map(|span| &span.layouts)
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} {}", self.name, self.version)
    }
}

/// Layouts of versions that follow each other.
#[derive(Default)]
struct Span {
    first: i16,
    layouts: Vec<Layout>,
}

impl Span {
    fn get(&self, version: i16) -> Option<&Layout> {
        self.layouts.get(usize::try_from(version.checked_sub(self.first)?).ok()?)
    }
}

#[derive(Default)]
struct Layouts {
    /// By API key: request and response.
    apis: Vec<[Span; 2]>,
    subscription: Span,
    assignment: Span,
}

/// Compiled when the first of them is asked for, all together in less than a millisecond. They take about 64 KiB.
static LAYOUTS: LazyLock<Layouts> = LazyLock::new(|| {
    let mut all = Layouts::default();
    for message in table().messages() {
        let layout = |version| Layout {
            key: message.key,
            name: message.name,
            version,
            program: Program::new(table(), message, version),
        };
        let layouts = (message.versions.first..=message.versions.last).map(layout).collect();
        let span = Span { first: message.versions.first, layouts };
        let place = usize::try_from(message.key).unwrap_or(0);
        if all.apis.len() <= place {
            all.apis.resize_with(place + 1, Default::default);
        }
        match (message.kind, all.apis.get_mut(place)) {
            (Kind::Request, Some([request, _])) => *request = span,
            (Kind::Response, Some([_, response])) => *response = span,
            _ if message.name == "ConsumerProtocolSubscription" => all.subscription = span,
            _ => all.assignment = span,
        }
    }
    all
});
