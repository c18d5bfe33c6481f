//! How many connections are in which state.

use rawtcp_proto::State;

/// The number of connections in each state, half-open and TIME-WAIT records included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// LISTEN.
    pub listen: usize,
    by_state: [usize; 10],
}

impl StateCounts {
    fn slot(state: State) -> usize {
        match state {
            State::Closed => 0,
            State::SynSent => 1,
            State::SynReceived => 2,
            State::Established => 3,
            State::FinWait1 => 4,
            State::FinWait2 => 5,
            State::CloseWait => 6,
            State::Closing => 7,
            State::LastAck => 8,
            State::TimeWait => 9,
        }
    }

    /// How many are in this state. CLOSED: over, but still held by the application.
    pub fn of(&self, state: State) -> usize {
        self.by_state[Self::slot(state)]
    }

    /// How many there are in all states but LISTEN and CLOSED.
    pub fn open(&self) -> usize {
        self.by_state[1..].iter().sum()
    }

    pub(super) fn add(&mut self, state: State, n: usize) {
        self.by_state[Self::slot(state)] += n;
    }
}
