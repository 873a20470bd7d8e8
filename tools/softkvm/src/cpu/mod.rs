//! The software processor: architectural state, decoding, execution, exceptions.
//!
//! It reaches the rest of the machine only through [`World`].

pub mod alu;
pub mod bare;
pub mod deliver;
pub mod engine;
pub mod exec;
pub mod features;
pub mod flags;
pub mod fxsave;
pub mod operand;
pub mod processor;
mod segments;
pub mod sse;
pub mod state;
#[cfg(test)]
pub mod testing;
pub mod world;
pub mod x87;

pub use features::Features;
pub use flags::Flags;
pub use processor::{Int, Processor};
pub use state::{Core, DescriptorTable, Fpu, Mode, Seg, Segment};
pub use world::{
    Access, Event, Exception, Exit, HostPage, Intercept, OwnerBit, PageAnswer, PortAccess, Step,
    Stop, Tdcall, Trapped, World,
};
