//! What clients may have said without being heard here: commits, verdicts, the ends of transactions. From not having heard of one
//! a fate may be concluded only where it would have been heard.

use hashbrown::HashMap;

use super::super::party::Party;
use super::consumers::Application;
use crate::time::Timestamp;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// When something of an application was missed last.
    of: HashMap<Application, Timestamp>,
    /// When something was missed last that may have been anybody's.
    anybodys: Option<Timestamp>,
    /// Some connections are not watched at all.
    elsewhere: bool,
}

impl Unheard {
    /// Applications that are kept apart. Beyond it, what any of them missed may have been anybody's.
    const APPLICATIONS: usize = 16_384;

    /// Something that was said on a connection was not understood.
    pub fn missed(&mut self, time: Timestamp, party: &Party) {
        let application = Application::of(party);
        if self.of.len() >= Self::APPLICATIONS && !self.of.contains_key(&application) {
            self.of.clear();
            return self.missed_somewhere(time);
        }
        let known = self.of.entry(application).or_insert(time);
        *known = time.max(*known);
    }

    /// Something was lost, nobody knows of which connection.
    pub fn missed_somewhere(&mut self, time: Timestamp) {
        self.anybodys = self.anybodys.max(Some(time));
    }

    /// From now on connections are left out.
    pub fn leaves_out(&mut self) {
        self.elsewhere = true;
    }

    /// Whether everything was heard that this application has said since then.
    pub fn heard_all(&self, since: Timestamp, party: &Party) -> bool {
        // A connection that was joined late may not have said its client's name yet.
        let any_client = Application::of(party).unnamed();
        let missed = [self.of.get(&Application::of(party)), self.of.get(&any_client), self.anybodys.as_ref()];
        !self.elsewhere && missed.into_iter().flatten().all(|missed| *missed < since)
    }
}
