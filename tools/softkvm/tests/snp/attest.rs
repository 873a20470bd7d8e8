//! Guest requests, reports and their chain.

use std::process::Command;

use abi::kvm_snp::SnpLaunchFinish;
use abi::snp::{
    AttestationReport, CERT_GUID_VCEK, CertTableEntry, FirmwareStatus, KeyReq, KeyRsp,
    MessageHeader, MessageType, REPORT_SIGNED_SIZE, ReportReq, ReportRsp,
};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Tag};
use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{Signature, VerifyingKey};
use p384::pkcs8::DecodePublicKey;
use softkvm::snp::certs::Chain;
use softkvm::snp::{Page, Platform, Psp};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::launch::{Bench, Owner, POLICY};

/// A guest's end of one message channel.
struct Channel {
    key: [u8; 32],
    seqno: u64,
    vmpck: u8,
}

impl Channel {
    fn seal(&self, kind: MessageType, payload: &[u8]) -> Page {
        let mut header = MessageHeader::new_zeroed();
        header.msg_seqno = self.seqno + 1;
        header.algo = 1;
        header.hdr_version = 1;
        header.hdr_size = 0x60;
        header.msg_type = kind;
        header.msg_version = 1;
        header.msg_size = payload.len() as u16;
        header.msg_vmpck = self.vmpck;
        let mut body = payload.to_vec();
        let tag = Aes256Gcm::new(&self.key.into())
            .encrypt_inout_detached(
                &self.iv(header.msg_seqno).into(),
                &header.as_bytes()[0x30..],
                body.as_mut_slice().into(),
            )
            .unwrap();
        header.authtag[..16].copy_from_slice(&tag);
        let mut page = [0; 4096];
        page[..0x60].copy_from_slice(header.as_bytes());
        page[0x60..0x60 + body.len()].copy_from_slice(&body);
        page
    }

    fn iv(&self, seqno: u64) -> [u8; 12] {
        let mut iv = [0; 12];
        iv[..8].copy_from_slice(&seqno.to_le_bytes());
        iv
    }

    fn open(&mut self, page: &Page) -> (MessageType, Vec<u8>) {
        let (header, body) = MessageHeader::read_from_prefix(page).unwrap();
        assert_eq!(header.msg_seqno, self.seqno + 2);
        let mut body = body[..usize::from(header.msg_size)].to_vec();
        let mut tag = [0; 16];
        tag.copy_from_slice(&header.authtag[..16]);
        Aes256Gcm::new(&self.key.into())
            .decrypt_inout_detached(
                &self.iv(header.msg_seqno).into(),
                &header.as_bytes()[0x30..],
                body.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .unwrap();
        self.seqno += 2;
        (header.msg_type, body)
    }
}

fn guest(finish: SnpLaunchFinish) -> (Bench, Channel) {
    let mut bench = Bench::started();
    bench.add(abi::snp::PageType::SECRETS, 7, [0; 4096]).unwrap();
    let owner = Owner::new();
    bench.finish(&finish).unwrap();
    let _ = owner;
    let secrets = abi::snp::SecretsPage::read_from_bytes(&bench.memory.guest[&7].0).unwrap();
    (bench, Channel { key: secrets.vmpck[0], seqno: 0, vmpck: 0 })
}

fn ask(bench: &mut Bench, page: &Page) -> Result<Page, FirmwareStatus> {
    let mut response = [0; 4096];
    let id = bench.vm.guest().unwrap();
    bench.psp.guest_request(id, page, &mut response).map(|()| response)
}

fn report_req(data: u8) -> ReportReq {
    let mut request = ReportReq::new_zeroed();
    request.report_data = [data; 64];
    request
}

fn report(bench: &mut Bench, channel: &mut Channel, request: &ReportReq) -> ReportRsp {
    let page = channel.seal(MessageType::REPORT_REQ, request.as_bytes());
    let (kind, body) = channel.open(&ask(bench, &page).unwrap());
    assert_eq!(kind, MessageType::REPORT_RSP);
    ReportRsp::read_from_bytes(&body).unwrap()
}

fn verify(key: &VerifyingKey, report: &AttestationReport) -> bool {
    let mut bytes = [0; 96];
    for (out, number) in bytes.chunks_exact_mut(48).zip([&report.signature.r, &report.signature.s])
    {
        out.copy_from_slice(&number[..48]);
        out.reverse();
    }
    let signature = Signature::from_slice(&bytes).unwrap();
    key.verify(&report.as_bytes()[..REPORT_SIGNED_SIZE], &signature).is_ok()
}

#[test]
fn a_report_says_what_was_launched_and_is_signed() {
    let host_data = std::array::from_fn(|i| i as u8);
    let (mut bench, mut channel) = guest(SnpLaunchFinish { host_data, ..Default::default() });
    let reply = report(&mut bench, &mut channel, &report_req(0x5a));
    assert_eq!(reply.status, FirmwareStatus::SUCCESS);
    assert_eq!(reply.report_size, 0x4a0);
    let mut seen = reply.report;
    assert_eq!(seen.measurement, bench.digest().0);
    assert_eq!(seen.host_data, host_data);
    assert_eq!(seen.policy, POLICY);
    assert_eq!(seen.report_data, [0x5a; 64]);
    assert_eq!((seen.version, seen.cpuid_family, seen.cpuid_model), (3, 0x19, 1));
    let key = bench.psp.keys().vcek_public();
    assert!(verify(&key, &seen));
    seen.measurement[0] ^= 1;
    assert!(!verify(&key, &seen));
}

#[test]
fn channels_count_their_messages() {
    let (mut bench, mut channel) = guest(SnpLaunchFinish::default());
    let page = channel.seal(MessageType::REPORT_REQ, report_req(1).as_bytes());
    let mut forged = page;
    forged[0x70] ^= 1;
    assert_eq!(ask(&mut bench, &forged), Err(FirmwareStatus::BAD_MEASUREMENT));
    let mut elsewhere = page;
    elsewhere[0x3c] = 1;
    assert_eq!(ask(&mut bench, &elsewhere), Err(FirmwareStatus::BAD_MEASUREMENT));
    elsewhere[0x3c] = 4;
    assert_eq!(ask(&mut bench, &elsewhere), Err(FirmwareStatus::INVALID_PARAM));
    channel.open(&ask(&mut bench, &page).unwrap());
    assert_eq!(ask(&mut bench, &page), Err(FirmwareStatus::INVALID_PARAM), "replay");
    report(&mut bench, &mut channel, &report_req(2));
}

#[test]
fn malformed_messages_never_succeed() {
    let (mut bench, channel) = guest(SnpLaunchFinish::default());
    let mut random = 0x1234_5678_9abc_def0u64;
    let good = channel.seal(MessageType::REPORT_REQ, report_req(1).as_bytes());
    for _ in 0..500 {
        let mut page = good;
        for _ in 0..4 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (random >> 33) as usize % 0xc0;
            // The zero half of the tag and the reserved bytes before the AAD are not covered.
            if !(0x10..0x20).contains(&at) && !(0x28..0x30).contains(&at) {
                page[at] ^= (random >> 24) as u8 | 1;
            }
        }
        if page != good {
            assert!(ask(&mut bench, &page).is_err());
        }
    }
}

#[test]
fn the_vcek_can_be_refused() {
    let (mut bench, mut channel) =
        guest(SnpLaunchFinish { vcek_disabled: 1, ..Default::default() });
    let reply = report(&mut bench, &mut channel, &report_req(1));
    assert_eq!(reply.status, FirmwareStatus::INVALID_KEY);
    let (mut bench, mut channel) = guest(SnpLaunchFinish::default());
    let vlek = ReportReq { key_sel: 2, ..report_req(1) };
    assert_eq!(report(&mut bench, &mut channel, &vlek).status, FirmwareStatus::INVALID_KEY);
    let vmpl = ReportReq { vmpl: 4, ..report_req(1) };
    assert_eq!(report(&mut bench, &mut channel, &vmpl).status, FirmwareStatus::INVALID_PARAM);
}

#[test]
fn derived_keys_depend_on_what_is_selected() {
    let derive = |host: u8, request: KeyReq| {
        let host_data = [host; 32];
        let (mut bench, mut channel) = guest(SnpLaunchFinish { host_data, ..Default::default() });
        let page = channel.seal(MessageType::KEY_REQ, request.as_bytes());
        let (kind, body) = channel.open(&ask(&mut bench, &page).unwrap());
        assert_eq!(kind, MessageType::KEY_RSP);
        let reply = KeyRsp::read_from_bytes(&body).unwrap();
        (reply.status == FirmwareStatus::SUCCESS).then_some(reply.key)
    };
    let plain = KeyReq::default();
    let key = derive(0, plain).unwrap();
    assert_eq!(derive(1, plain), Some(key), "host data is not mixed in");
    assert_ne!(derive(0, KeyReq { guest_field_select: 8, ..plain }), Some(key));
    assert_ne!(derive(0, KeyReq { root_key_select: 1, ..plain }), Some(key));
    assert_eq!(derive(0, KeyReq { guest_svn: 1, ..plain }), None);
    assert_eq!(derive(0, KeyReq { tcb_version: abi::snp::TcbVersion(!0), ..plain }), None);
}

#[test]
fn the_certificate_table_can_be_walked() {
    let psp = Psp::new(Platform::default());
    let chain = Chain::issue(psp.platform(), psp.keys()).unwrap();
    let table = chain.table();
    let (first, _) = CertTableEntry::read_from_prefix(&table).unwrap();
    assert_eq!(first.guid, CERT_GUID_VCEK);
    let range = first.offset as usize..(first.offset + first.length) as usize;
    assert_eq!(table[range], chain.vcek);
    assert_eq!(table[72..96], [0; 24]);
    assert_eq!(chain, Chain::issue(psp.platform(), psp.keys()).unwrap(), "reproducible");
}

#[test]
fn each_family_names_its_firmware_in_its_own_way() {
    let issue = |family, model| {
        let tcb = abi::snp::TcbParts { fmc: 0x71, boot_loader: 2, tee: 3, snp: 4, microcode: 5 };
        let psp = Psp::new(Platform { family, model, tcb, ..Platform::default() });
        let version = psp.platform().tcb_version().0.to_le_bytes();
        (Chain::issue(psp.platform(), psp.keys()).unwrap(), version)
    };
    let has = |der: &[u8], bytes: &[u8]| der.windows(bytes.len()).any(|window| window == bytes);
    // 1.3.6.1.4.1.3704.1.3.9 with its value: fmcSPL.
    let fmc = [0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1, 3, 9, 4, 3, 2, 1, 0x71];
    for (family, model, version, name) in [
        (0x19, 0x01, [2, 3, 0, 0, 0, 0, 4, 5], "Milan"),
        (0x19, 0x11, [2, 3, 0, 0, 0, 0, 4, 5], "Genoa"),
        (0x1a, 0x02, [0x71, 2, 3, 4, 0, 0, 0, 5], "Turin"),
    ] {
        let (chain, packed) = issue(family, model);
        assert_eq!(packed, version, "{name}");
        assert!(has(&chain.vcek, name.as_bytes()), "{name}");
        assert_eq!(has(&chain.vcek, &fmc), family == 0x1a, "{name}");
    }
}

#[test]
fn openssl_accepts_the_chain_and_the_report() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: no openssl command here");
        return;
    }
    let (mut bench, mut channel) = guest(SnpLaunchFinish::default());
    let reply = report(&mut bench, &mut channel, &report_req(1));
    let chain = Chain::issue(bench.psp.platform(), bench.psp.keys()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, pem) in ["ark", "ask", "vcek"].into_iter().zip(chain.pem()) {
        std::fs::write(dir.path().join(name), pem).unwrap();
    }
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    openssl(&["verify", "-check_ss_sig", "-CAfile", "ark", "-untrusted", "ask", "vcek"]);
    let text = String::from_utf8(openssl(&["x509", "-in", "vcek", "-noout", "-text"])).unwrap();
    for oid in ["1.3.6.1.4.1.3704.1.3.1", "1.3.6.1.4.1.3704.1.3.8", "1.3.6.1.4.1.3704.1.4"] {
        assert!(text.contains(oid), "{oid} in {text}");
    }
    let public = openssl(&["x509", "-in", "vcek", "-noout", "-pubkey"]);
    let key = VerifyingKey::from_public_key_pem(std::str::from_utf8(&public).unwrap()).unwrap();
    assert!(verify(&key, &reply.report));
}
