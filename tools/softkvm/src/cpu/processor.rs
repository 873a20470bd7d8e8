//! A processor at work: architectural state, TLB and the world it runs in.

use super::state::{Core, Seg};
use super::world::{Access, Exception, Exit, PageAnswer, Step, Stop, Trapped, World};

/// A processor together with everything it needs to execute instructions.
///
/// [`Processor::enter`] lends it a world for the length of one run.
pub struct Processor {
    /// Architectural state.
    pub core: Core,
    world: Option<*mut dyn World>,
}

impl Processor {
    /// A processor in the given state.
    pub fn new(core: Core) -> Self {
        Self { core, world: None }
    }

    /// Ends the instruction with an exception.
    #[cold]
    pub fn fault(&mut self, exception: Exception) -> Trapped {
        self.core.stop = Some(Stop::Fault(exception));
        Trapped
    }

    /// Ends the instruction with an exit.
    #[cold]
    pub fn exit(&mut self, exit: Exit) -> Trapped {
        self.core.stop = Some(Stop::Exit(exit));
        Trapped
    }
}
