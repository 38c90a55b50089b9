//! Who was used least recently: a doubly linked list through the indices of a slab.

const NONE: u32 = u32::MAX;

/// Links of one entry; a member of whatever is listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    newer: u32,
    older: u32,
}

impl Default for Links {
    fn default() -> Self {
        Links { newer: NONE, older: NONE }
    }
}

/// The list's two ends. Entries are found through `links`, a function from an index to its [`Links`].
#[derive(Debug)]
pub(super) struct Recency {
    newest: u32,
    oldest: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Recency { newest: NONE, oldest: NONE }
    }
}

/// Where the links live.
pub(super) trait Linked {
    /// The links of a listed entry.
    fn links(&mut self, index: u32) -> &mut Links;
}

impl Recency {
    /// The entry that was used least recently.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// True if the entry is already in front: the common case, to be asked before [`Recency::touch`].
    pub fn is_newest(&self, index: u32) -> bool {
        self.newest == index
    }

    /// Puts a new entry in front.
    pub fn insert(&mut self, entries: &mut impl Linked, index: u32) {
        *entries.links(index) = Links { newer: NONE, older: self.newest };
        match self.newest {
            NONE => self.oldest = index,
            newest => entries.links(newest).newer = index,
        }
        self.newest = index;
    }

    /// Takes an entry out.
    pub fn remove(&mut self, entries: &mut impl Linked, index: u32) {
        let Links { newer, older } = std::mem::take(entries.links(index));
        match newer {
            NONE => self.newest = older,
            newer => entries.links(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => entries.links(older).newer = newer,
        }
    }

    /// Puts an entry in front.
    pub fn touch(&mut self, entries: &mut impl Linked, index: u32) {
        self.remove(entries, index);
        self.insert(entries, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Linked for Vec<Links> {
        fn links(&mut self, index: u32) -> &mut Links {
            &mut self[index as usize]
        }
    }

    #[test]
    fn the_oldest_is_whoever_was_not_touched() {
        let mut entries = vec![Links::default(); 3];
        let mut recency = Recency::default();
        assert_eq!(recency.oldest(), None);
        for index in 0..3 {
            recency.insert(&mut entries, index);
        }
        recency.touch(&mut entries, 0);
        assert!(recency.is_newest(0));
        assert_eq!(recency.oldest(), Some(1));
        recency.remove(&mut entries, 1);
        recency.touch(&mut entries, 2);
        assert_eq!(recency.oldest(), Some(0));
        recency.remove(&mut entries, 0);
        recency.remove(&mut entries, 2);
        assert_eq!(recency.oldest(), None);
    }
}
