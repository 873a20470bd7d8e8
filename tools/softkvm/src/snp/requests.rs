//! Guest requests: the encrypted messages between a guest and the firmware (firmware ABI 56860,
//! chapter 7).

use abi::snp::{
    AEAD_AES_256_GCM, AttestationReport, FirmwareStatus, KeyReq, KeyRsp, MESSAGE_AAD_OFFSET,
    MESSAGE_HEADER_VERSION, MESSAGE_PAYLOAD_MAX, MessageHeader, MessagePage, MessageType,
    ReportReq, ReportRsp, TSC_INFO_REQ_SIZE, TcbVersion, TscInfoRsp, guest_field,
};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Page;
use super::attest::{self, ChipKeys, RootKey};
use super::platform::Platform;
use super::psp::{Command, GuestContext, GuestState, tsc_scale};

/// Bytes of the header that come before the payload.
const HEADER: usize = size_of::<MessageHeader>();

/// Answers the message in `request` into `response` (SNP_GUEST_REQUEST). On an error the response
/// page is left as it is.
pub fn answer(
    platform: &Platform,
    keys: &ChipKeys,
    guest: &mut GuestContext,
    request: &Page,
    response: &mut Page,
) -> Command {
    if guest.state != GuestState::Running {
        return Err(FirmwareStatus::INVALID_GUEST_STATE);
    }
    let message =
        MessagePage::read_from_bytes(request).map_err(|_| FirmwareStatus::INVALID_ADDRESS)?;
    let header = message.header;
    let channel = usize::from(header.msg_vmpck);
    if header.algo != AEAD_AES_256_GCM
        || header.hdr_version != MESSAGE_HEADER_VERSION
        || usize::from(header.hdr_size) != HEADER
        || usize::from(header.msg_size) > MESSAGE_PAYLOAD_MAX
        || channel >= guest.vmpck.len()
    {
        return Err(FirmwareStatus::INVALID_PARAM);
    }
    let last = guest.seqno[channel];
    // One number for the request, one for its answer; the space must not wrap.
    let (next, after) = last
        .checked_add(1)
        .and_then(|next| Some((next, next.checked_add(1)?)))
        .ok_or(FirmwareStatus::AEAD_OFLOW)?;
    if header.msg_seqno != next {
        return Err(FirmwareStatus::INVALID_PARAM);
    }
    let cipher = Aes256Gcm::new(&guest.vmpck[channel].into());
    let mut payload = message.payload;
    let payload = &mut payload[..usize::from(header.msg_size)];
    let mut tag = [0; 16];
    tag.copy_from_slice(&header.authtag[..16]);
    cipher
        .decrypt_inout_detached(
            &nonce(next),
            &header.as_bytes()[MESSAGE_AAD_OFFSET..],
            payload.into(),
            &Tag::from(tag),
        )
        .map_err(|_| FirmwareStatus::BAD_MEASUREMENT)?;
    let requester = u32::from(header.msg_vmpck);
    let mut reply = match header.msg_type {
        MessageType::REPORT_REQ => report(platform, keys, guest, payload, requester)?,
        MessageType::KEY_REQ => key(platform, keys, guest, payload, requester)?,
        MessageType::TSC_INFO_REQ => tsc_info(platform, guest, payload)?,
        _ => return Err(FirmwareStatus::INVALID_PARAM),
    };
    let mut out = MessageHeader::new_zeroed();
    out.msg_seqno = after;
    out.algo = AEAD_AES_256_GCM;
    out.hdr_version = MESSAGE_HEADER_VERSION;
    out.hdr_size = HEADER as u16;
    out.msg_type = MessageType(header.msg_type.0 + 1);
    out.msg_version = header.msg_version;
    out.msg_size = reply.len() as u16;
    out.msg_vmpck = header.msg_vmpck;
    let tag = cipher
        .encrypt_inout_detached(
            &nonce(after),
            &out.as_bytes()[MESSAGE_AAD_OFFSET..],
            reply.as_mut_slice().into(),
        )
        .map_err(|_| FirmwareStatus::AEAD_OFLOW)?;
    out.authtag[..16].copy_from_slice(&tag);
    guest.seqno[channel] = after;
    response.fill(0);
    response[..HEADER].copy_from_slice(out.as_bytes());
    response[HEADER..HEADER + reply.len()].copy_from_slice(&reply);
    Ok(())
}

/// The IV: the sequence number, then zeros.
fn nonce(seqno: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&seqno.to_le_bytes());
    iv.into()
}

fn parse<T: FromBytes>(payload: &[u8]) -> Command<T> {
    T::read_from_bytes(payload).map_err(|_| FirmwareStatus::INVALID_LENGTH)
}

fn report(
    platform: &Platform,
    keys: &ChipKeys,
    guest: &GuestContext,
    payload: &[u8],
    requester: u32,
) -> Command<Vec<u8>> {
    let request: ReportReq = parse(payload)?;
    let mut reply = ReportRsp::new_zeroed();
    reply.status = if request.vmpl > 3
        || request.vmpl < requester
        || request.reserved != [0; 24]
        || request.key_sel > 2
    {
        FirmwareStatus::INVALID_PARAM
    } else if request.key_sel == 2 || guest.finish.vcek_disabled {
        // There is no VLEK.
        FirmwareStatus::INVALID_KEY
    } else {
        FirmwareStatus::SUCCESS
    };
    if reply.status == FirmwareStatus::SUCCESS {
        reply.report_size = size_of::<AttestationReport>() as u32;
        reply.report = attest::report(platform, keys, guest, request.report_data, request.vmpl);
    }
    Ok(reply.as_bytes().to_vec())
}

fn key(
    platform: &Platform,
    keys: &ChipKeys,
    guest: &GuestContext,
    payload: &[u8],
    requester: u32,
) -> Command<Vec<u8>> {
    /// Fields of message version 1.
    const FIELDS: u64 = guest_field::GUEST_POLICY
        | guest_field::IMAGE_ID
        | guest_field::FAMILY_ID
        | guest_field::MEASUREMENT
        | guest_field::GUEST_SVN
        | guest_field::TCB_VERSION;
    let request: KeyReq = parse(payload)?;
    let mut reply = KeyRsp::new_zeroed();
    let root = if request.root_key_select & 1 == 0 { RootKey::Vcek } else { RootKey::Vmrk };
    let key_select = request.root_key_select >> 1 & 3;
    reply.status = if request.root_key_select >> 3 != 0
        || key_select > 2
        || request.reserved != 0
        || request.guest_field_select & !FIELDS != 0
        || request.vmpl > 3
        || request.vmpl < requester
        || request.guest_svn > guest.finish.guest_svn
        || !not_above(platform, request.tcb_version)
    {
        FirmwareStatus::INVALID_PARAM
    } else if root == RootKey::Vcek && (key_select == 2 || guest.finish.vcek_disabled) {
        FirmwareStatus::INVALID_KEY
    } else {
        reply.key = attest::derive_key(
            keys,
            guest,
            root,
            request.guest_field_select,
            request.vmpl,
            request.guest_svn,
            request.tcb_version,
        );
        FirmwareStatus::SUCCESS
    };
    Ok(reply.as_bytes().to_vec())
}

/// Whether no component of a TCB exceeds the committed one.
fn not_above(platform: &Platform, tcb: TcbVersion) -> bool {
    let committed = platform.tcb_version().0.to_le_bytes();
    tcb.0.to_le_bytes().iter().zip(committed).all(|(asked, limit)| *asked <= limit)
}

fn tsc_info(platform: &Platform, guest: &GuestContext, payload: &[u8]) -> Command<Vec<u8>> {
    if payload.len() != TSC_INFO_REQ_SIZE {
        return Err(FirmwareStatus::INVALID_LENGTH);
    }
    let mut reply = TscInfoRsp::new_zeroed();
    match tsc_scale(platform, guest) {
        Some(scale) if payload.iter().all(|byte| *byte == 0) => reply.tsc_scale = scale,
        _ => reply.status = FirmwareStatus::INVALID_PARAM,
    }
    Ok(reply.as_bytes().to_vec())
}
