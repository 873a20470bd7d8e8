//! Guest requests: messages to firmware, and certificates from user space
//! (`snp_handle_guest_req`, `snp_handle_ext_guest_req`).

use core::mem::offset_of;

use abi::ghcb::{Ghcb, guest_request_error, input_error};
use abi::snp::{CertTableEntry, MessageHeader, MessageType};
use libc::{EAGAIN, EINVAL, EIO, ENOSPC};

use super::{GhcbExit, GhcbHost, Outcome, Pending, Vmgexit};

impl Vmgexit {
    /// SNP guest request.
    pub(super) fn guest_request(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        match self.request_pages() {
            Some((request, response)) => self.forward(host, request, response),
            None => Outcome::Resume,
        }
    }

    /// SNP extended guest request: a report may come with certificates.
    pub(super) fn ext_guest_request(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        let Some((request, response)) = self.request_pages() else { return Outcome::Resume };
        let mut kind = [0];
        let at = request + offset_of!(MessageHeader, msg_type) as u64;
        if !host.read_shared(at, &mut kind) {
            return Outcome::Fail(EIO);
        }
        if MessageType(kind[0]) != MessageType::REPORT_REQ {
            return self.forward(host, request, response);
        }
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        let (gpa, npages) = (mapped.regs.rax, mapped.regs.rbx);
        if !mapped.has(offset_of!(Ghcb, rax))
            || !mapped.has(offset_of!(Ghcb, rbx))
            || gpa & 0xfff != 0
        {
            mapped.bad_input(input_error::INVALID_INPUT);
            return Outcome::Resume;
        }
        if host.certs_enabled() {
            self.pending = Some(Pending::Certs { request, response });
            return Outcome::Exit(GhcbExit::ReqCerts { gpa, npages });
        }
        if npages != 0 && !host.write_shared(gpa, &[0; size_of::<CertTableEntry>()]) {
            return Outcome::Fail(EIO);
        }
        self.forward(host, request, response)
    }

    /// User space has provided certificates, or not (`snp_complete_req_certs`).
    pub(super) fn certs_done(
        &mut self,
        host: &mut dyn GhcbHost,
        request: u64,
        response: u64,
        ret: u64,
        npages: u64,
    ) -> Outcome {
        if ret == 0 {
            return self.forward(host, request, response);
        }
        let error = match i32::try_from(ret) {
            Ok(ENOSPC) => guest_request_error::INVALID_LEN,
            Ok(EAGAIN) => guest_request_error::BUSY,
            Ok(EIO) => guest_request_error::GENERIC,
            _ => return Outcome::Fail(EINVAL),
        };
        if let Some(mapped) = self.mapped.as_deref_mut() {
            if error == guest_request_error::INVALID_LEN {
                mapped.regs.rbx = npages;
            }
            mapped.no_action(u64::from(error) << 32);
        }
        Outcome::Resume
    }

    /// Addresses of the two message pages: aligned and distinct.
    fn request_pages(&mut self) -> Option<(u64, u64)> {
        let mapped = self.mapped.as_deref_mut()?;
        let (request, response) = (mapped.info_1, mapped.info_2);
        if request & 0xfff != 0 || response & 0xfff != 0 || request == response {
            mapped.bad_input(input_error::INVALID_INPUT);
            return None;
        }
        Some((request, response))
    }

    fn forward(&mut self, host: &mut dyn GhcbHost, request: u64, response: u64) -> Outcome {
        let mut message = [0; 4096];
        let mut answer = [0; 4096];
        if !host.read_shared(request, &mut message) {
            return Outcome::Fail(EIO);
        }
        let status = match host.guest_request(&message, &mut answer) {
            Ok(status) => status,
            Err(errno) => return Outcome::Fail(errno),
        };
        if !host.write_shared(response, &answer) {
            return Outcome::Fail(EIO);
        }
        if let Some(mapped) = self.mapped.as_deref_mut() {
            mapped.no_action(u64::from(status.0));
        }
        Outcome::Resume
    }
}
