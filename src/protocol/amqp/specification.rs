//! The methods of AMQP 0-9-1 with RabbitMQ's extensions, as data. A test checks the table against `methods.txt`, which comes
//! from the protocol's machine-readable specification.

use super::cursor::{Cursor, Flaw};
use super::table::Table;

/// A method of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Specification {
    /// Class number.
    pub class: u16,
    /// Method number within the class.
    pub method: u16,
    /// `class.method` in words, such as `basic.get-ok`.
    pub name: &'static str,
    /// Who may send it.
    pub sender: Sender,
    /// A content header and a body follow.
    pub content: bool,
    /// Types of its arguments, in order.
    pub arguments: &'static [Argument],
}

/// Who may send a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client only.
    Client,
    /// The broker only.
    Broker,
    /// Both.
    Either,
}

/// Types of arguments. Bits that follow each other share an octet, from the lowest up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's own names")]
pub enum Argument {
    Octet,
    Short,
    Long,
    LongLong,
    ShortString,
    LongString,
    Table,
    Bit,
}

impl Specification {
    /// The method with these numbers.
    pub fn find(class: u16, method: u16) -> Option<&'static Specification> {
        let place = PLACES.get(usize::from(class / 10))?.get(usize::from(method))?;
        METHODS.get(usize::from(*place)).filter(|row| (row.class, row.method) == (class, method))
    }

    /// All methods, by number.
    pub fn all() -> &'static [Specification] {
        METHODS
    }

    /// Checks that the arguments are sound and fill `arguments` exactly.
    pub(super) fn validate(&self, arguments: &[u8]) -> Result<(), Flaw> {
        let mut cursor = Cursor::new(arguments);
        let mut bits = 0;
        for argument in self.arguments {
            if *argument == Argument::Bit {
                if bits % 8 == 0 {
                    cursor.u8()?;
                }
                bits += 1;
                continue;
            }
            bits = 0;
            match argument {
                Argument::Octet | Argument::Bit => cursor.take(1).map(drop),
                Argument::Short => cursor.take(2).map(drop),
                Argument::Long => cursor.take(4).map(drop),
                Argument::LongLong => cursor.take(8).map(drop),
                Argument::ShortString => cursor.short_string().map(drop),
                Argument::LongString => cursor.long_string().map(drop),
                Argument::Table => Table::read(&mut cursor)?.validate(),
            }?;
        }
        cursor.finish()
    }
}

const fn row(
    class: u16,
    method: u16,
    name: &'static str,
    sender: Sender,
    content: bool,
    arguments: &'static [Argument],
) -> Specification {
    Specification { class, method, name, sender, content, arguments }
}

use Argument::{Bit, Long, LongLong, LongString, Octet, Short, ShortString, Table as TableArgument};
use Sender::{Broker, Client, Either};

/// Where in [`METHODS`] a method is, by the tenth part of its class number and its own number. The classes (10, 20, … 85, 90)
/// differ in that, and no method's number is higher.
static PLACES: [[u8; 128]; 10] = {
    let mut places = [[u8::MAX; 128]; 10];
    let mut place = 0;
    while place < METHODS.len() {
        let row = &METHODS[place];
        places[row.class as usize / 10][row.method as usize] = place as u8;
        place += 1;
    }
    places
};

const METHODS: &[Specification] = &[
    row(10, 10, "connection.start", Broker, false, &[Octet, Octet, TableArgument, LongString, LongString]),
    row(10, 11, "connection.start-ok", Client, false, &[TableArgument, ShortString, LongString, ShortString]),
    row(10, 20, "connection.secure", Broker, false, &[LongString]),
    row(10, 21, "connection.secure-ok", Client, false, &[LongString]),
    row(10, 30, "connection.tune", Broker, false, &[Short, Long, Short]),
    row(10, 31, "connection.tune-ok", Client, false, &[Short, Long, Short]),
    row(10, 40, "connection.open", Client, false, &[ShortString, ShortString, Bit]),
    row(10, 41, "connection.open-ok", Broker, false, &[ShortString]),
    row(10, 50, "connection.close", Either, false, &[Short, ShortString, Short, Short]),
    row(10, 51, "connection.close-ok", Either, false, &[]),
    row(10, 60, "connection.blocked", Broker, false, &[ShortString]),
    row(10, 61, "connection.unblocked", Broker, false, &[]),
    row(10, 70, "connection.update-secret", Client, false, &[LongString, ShortString]),
    row(10, 71, "connection.update-secret-ok", Broker, false, &[]),
    row(20, 10, "channel.open", Client, false, &[ShortString]),
    row(20, 11, "channel.open-ok", Broker, false, &[LongString]),
    row(20, 20, "channel.flow", Either, false, &[Bit]),
    row(20, 21, "channel.flow-ok", Either, false, &[Bit]),
    row(20, 40, "channel.close", Either, false, &[Short, ShortString, Short, Short]),
    row(20, 41, "channel.close-ok", Either, false, &[]),
    row(30, 10, "access.request", Client, false, &[ShortString, Bit, Bit, Bit, Bit, Bit]),
    row(30, 11, "access.request-ok", Broker, false, &[Short]),
    row(
        40,
        10,
        "exchange.declare",
        Client,
        false,
        &[Short, ShortString, ShortString, Bit, Bit, Bit, Bit, Bit, TableArgument],
    ),
    row(40, 11, "exchange.declare-ok", Broker, false, &[]),
    row(40, 20, "exchange.delete", Client, false, &[Short, ShortString, Bit, Bit]),
    row(40, 21, "exchange.delete-ok", Broker, false, &[]),
    row(40, 30, "exchange.bind", Client, false, &[Short, ShortString, ShortString, ShortString, Bit, TableArgument]),
    row(40, 31, "exchange.bind-ok", Broker, false, &[]),
    row(40, 40, "exchange.unbind", Client, false, &[Short, ShortString, ShortString, ShortString, Bit, TableArgument]),
    row(40, 51, "exchange.unbind-ok", Broker, false, &[]),
    row(50, 10, "queue.declare", Client, false, &[Short, ShortString, Bit, Bit, Bit, Bit, Bit, TableArgument]),
    row(50, 11, "queue.declare-ok", Broker, false, &[ShortString, Long, Long]),
    row(50, 20, "queue.bind", Client, false, &[Short, ShortString, ShortString, ShortString, Bit, TableArgument]),
    row(50, 21, "queue.bind-ok", Broker, false, &[]),
    row(50, 30, "queue.purge", Client, false, &[Short, ShortString, Bit]),
    row(50, 31, "queue.purge-ok", Broker, false, &[Long]),
    row(50, 40, "queue.delete", Client, false, &[Short, ShortString, Bit, Bit, Bit]),
    row(50, 41, "queue.delete-ok", Broker, false, &[Long]),
    row(50, 50, "queue.unbind", Client, false, &[Short, ShortString, ShortString, ShortString, TableArgument]),
    row(50, 51, "queue.unbind-ok", Broker, false, &[]),
    row(60, 10, "basic.qos", Client, false, &[Long, Short, Bit]),
    row(60, 11, "basic.qos-ok", Broker, false, &[]),
    row(60, 20, "basic.consume", Client, false, &[Short, ShortString, ShortString, Bit, Bit, Bit, Bit, TableArgument]),
    row(60, 21, "basic.consume-ok", Broker, false, &[ShortString]),
    row(60, 30, "basic.cancel", Either, false, &[ShortString, Bit]),
    row(60, 31, "basic.cancel-ok", Either, false, &[ShortString]),
    row(60, 40, "basic.publish", Client, true, &[Short, ShortString, ShortString, Bit, Bit]),
    row(60, 50, "basic.return", Broker, true, &[Short, ShortString, ShortString, ShortString]),
    row(60, 60, "basic.deliver", Broker, true, &[ShortString, LongLong, Bit, ShortString, ShortString]),
    row(60, 70, "basic.get", Client, false, &[Short, ShortString, Bit]),
    row(60, 71, "basic.get-ok", Broker, true, &[LongLong, Bit, ShortString, ShortString, Long]),
    row(60, 72, "basic.get-empty", Broker, false, &[ShortString]),
    row(60, 80, "basic.ack", Either, false, &[LongLong, Bit]),
    row(60, 90, "basic.reject", Client, false, &[LongLong, Bit]),
    row(60, 100, "basic.recover-async", Client, false, &[Bit]),
    row(60, 110, "basic.recover", Client, false, &[Bit]),
    row(60, 111, "basic.recover-ok", Broker, false, &[]),
    row(60, 120, "basic.nack", Either, false, &[LongLong, Bit, Bit]),
    row(85, 10, "confirm.select", Client, false, &[Bit]),
    row(85, 11, "confirm.select-ok", Broker, false, &[]),
    row(90, 10, "tx.select", Client, false, &[]),
    row(90, 11, "tx.select-ok", Broker, false, &[]),
    row(90, 20, "tx.commit", Client, false, &[]),
    row(90, 21, "tx.commit-ok", Broker, false, &[]),
    row(90, 30, "tx.rollback", Client, false, &[]),
    row(90, 31, "tx.rollback-ok", Broker, false, &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_published_specification() {
        let published: Vec<String> =
            include_str!("methods.txt").lines().filter(|line| !line.starts_with('#')).map(String::from).collect();
        let ours: Vec<String> = METHODS.iter().map(render).collect();
        assert_eq!(ours, published);
    }

    fn render(row: &Specification) -> String {
        let content = if row.content { "content" } else { "-" };
        let mut line = format!("{} {} {} {content}", row.class, row.method, row.name);
        for argument in row.arguments {
            line.push_str(match argument {
                Argument::Octet => " octet",
                Argument::Short => " short",
                Argument::Long => " long",
                Argument::LongLong => " longlong",
                Argument::ShortString => " shortstr",
                Argument::LongString => " longstr",
                Argument::Table => " table",
                Argument::Bit => " bit",
            });
        }
        line
    }

    #[test]
    fn every_method_is_found_by_its_numbers_and_nothing_else_is() {
        for class in (0..300).chain([u16::MAX]) {
            for method in (0..300).chain([u16::MAX]) {
                let row = METHODS.iter().find(|row| (row.class, row.method) == (class, method));
                assert_eq!(Specification::find(class, method), row, "{class} {method}");
            }
        }
    }

    #[test]
    fn replies_come_from_the_other_side_and_content_from_one() {
        for row in METHODS.iter().filter(|row| row.content) {
            assert_ne!(row.sender, Sender::Either, "{}", row.name);
        }
        for row in METHODS {
            let request = row.name.strip_suffix("-ok").unwrap_or(row.name);
            let request = METHODS.iter().find(|other| other.name == request && request != row.name);
            if let (Some(request), false) = (request, row.sender == Sender::Either) {
                assert_ne!(request.sender, row.sender, "{}", row.name);
            }
        }
    }

    #[test]
    fn arguments_must_fit_exactly() {
        let ack = Specification::find(60, 80).unwrap();
        assert_eq!(ack.validate(&[0, 0, 0, 0, 0, 0, 0, 1, 1]), Ok(()));
        assert_eq!(ack.validate(&[0, 0, 0, 0, 0, 0, 0, 1]), Err(Flaw::Incomplete));
        assert_eq!(ack.validate(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]), Err(Flaw::Malformed));
        assert_eq!(Specification::find(60, 81), None);
    }
}
