//! KVM_GET_STATS_FD: header, descriptors and values in the layout of Linux
//! Documentation/virt/kvm/api.rst 4.133, in a memory file that is refreshed when a vCPU leaves
//! KVM_RUN.
//!
//! UNSAFETY: writes into its own mapping of that file.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::errno::Answer;
use super::fd::Mapping;
use super::state::State;
use super::vm::Vm;
use super::{Front, Object};

const NAME_SIZE: usize = 48;
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16 + NAME_SIZE;
const ID_SIZE: usize = 48;

/// Cumulative, no unit, decimal exponent.
const CUMULATIVE: u32 = 0;

/// Values of a vCPU.
const VCPU: &[&str] = &["exits", "io_exits", "mmio_exits", "halt_exits", "irq_injections"];
/// Values of a VM.
const VM: &[&str] = &["remote_tlb_flush", "pages_4k", "pages_2m", "pages_1g"];

fn image(id: &str, names: &[&str]) -> Vec<u8> {
    let descriptors = HEADER + ID_SIZE;
    let data = descriptors + names.len() * DESCRIPTOR;
    let mut out = Vec::with_capacity(data + names.len() * 8);
    let header =
        [0, NAME_SIZE as u32, names.len() as u32, HEADER as u32, descriptors as u32, data as u32];
    out.extend(header.iter().flat_map(|word| word.to_le_bytes()));
    let text = |out: &mut Vec<u8>, text: &str, size: usize| {
        let end = out.len() + size;
        out.extend(text.bytes().take(size - 1));
        out.resize(end, 0);
    };
    text(&mut out, id, ID_SIZE);
    for (index, name) in names.iter().enumerate() {
        out.extend(CUMULATIVE.to_le_bytes());
        out.extend(0i16.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend((index as u32 * 8).to_le_bytes());
        out.extend(0u32.to_le_bytes());
        text(&mut out, name, NAME_SIZE);
    }
    out.resize(data + names.len() * 8, 0);
    out
}

fn put(map: &Mapping, offset: usize, bytes: &[u8]) {
    let len = bytes.len().min(map.size().saturating_sub(offset));
    // SAFETY: inside the mapping.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.base().add(offset), len) };
}

/// KVM_GET_STATS_FD on a VM or one of its vCPUs.
pub fn open(front: &Front, vm: &Arc<Vm>, vcpu: Option<usize>) -> Answer<i32> {
    let (id, names) = match vcpu {
        Some(index) => (format!("kvm-softkvm/vcpu-{index}"), VCPU),
        None => ("kvm-softkvm".to_owned(), VM),
    };
    let bytes = image(&id, names);
    front.objects.publish(c"kvm-stats", bytes.len() as u64, |fd| {
        let map = Mapping::of(fd, bytes.len())?;
        put(&map, 0, &bytes);
        if let Some(index) = vcpu {
            let mut state = vm.lock();
            state.vcpus[index].stats = Some(map);
            state.refresh_stats(index);
        }
        Ok(Object::Stats)
    })
}

impl State {
    /// Writes a vCPU's present values to its statistics file.
    pub fn refresh_stats(&mut self, index: usize) {
        let vcpu = &self.vcpus[index];
        let Some(map) = &vcpu.stats else { return };
        let user = |name| vcpu.counts.user_exits.get(name).copied().unwrap_or(0);
        let host = |name| vcpu.counts.host_events.get(name).copied().unwrap_or(0);
        let handled: u64 = vcpu.counts.host_events.values().sum();
        let values = [
            vcpu.counts.exits + handled,
            user("io") + host("port_in_kernel") + host("port_out_kernel"),
            user("mmio") + host("apic_access"),
            host("hlt"),
            host("interrupt"),
        ];
        let data = HEADER + ID_SIZE + VCPU.len() * DESCRIPTOR;
        for (i, value) in values.iter().enumerate() {
            put(map, data + i * 8, &value.to_le_bytes());
        }
    }
}
