//! The calling process's memory, as a hypercall's arguments name it.

use crate::errno::Errno;

/// A type of Xen's interface that can be copied byte by byte.
///
/// # Safety
/// Every pattern of bits is a value of the type, and it has no pointers of its own.
pub unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}

/// The right to follow the addresses in one hypercall's arguments.
#[derive(Clone, Copy)]
pub struct Caller(());

impl Caller {
    /// # Safety
    /// The caller of the library keeps Xen's interface: while this value lives, every address in the arguments of the hypercall,
    /// and in the structures that they lead to, is that of memory of the size that the interface says, which nobody else writes
    /// to. A hypervisor would find out and answer `EFAULT`; here only null is found out.
    pub unsafe fn new() -> Self {
        Caller(())
    }

    /// The value at an address.
    pub fn read<T: Plain>(self, address: u64) -> Result<T, Errno> {
        let pointer = pointer::<T>(address)?;
        // SAFETY: the memory is there and still, by what `Caller::new` was told; any pattern of bits will do, for `T` is
        // `Plain`. It need not be aligned.
        Ok(unsafe { pointer.read_unaligned() })
    }

    /// Puts a value at an address.
    pub fn write<T: Plain>(self, address: u64, value: T) -> Result<(), Errno> {
        let pointer = pointer::<T>(address)?;
        // SAFETY: the memory is there and ours to write, by what `Caller::new` was told. It need not be aligned.
        unsafe { pointer.write_unaligned(value) };
        Ok(())
    }

    /// Puts the first bytes of a value at an address, or all of it: what an older release has of a structure.
    pub fn write_part<T: Plain>(self, address: u64, value: T, bytes: usize) -> Result<(), Errno> {
        let pointer = pointer::<T>(address)?;
        let bytes = bytes.min(size_of::<T>());
        // SAFETY: as in `write`, of so many bytes, which `value` has, all initialised since `T` is `Plain`.
        unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), pointer.cast(), bytes) };
        Ok(())
    }

    /// Copies an array of `count`.
    pub fn read_array<T: Plain>(self, address: u64, count: usize) -> Result<Vec<T>, Errno> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let pointer = pointer::<T>(address)?;
        let mut values = Vec::<T>::with_capacity(count);
        // SAFETY: the memory of so many values is there and still, by what `Caller::new` was told. They are copied as bytes,
        // because the source need not be aligned; any pattern of bits will do, for `T` is `Plain`, so that afterwards as many are
        // initialised.
        unsafe {
            let bytes = count * size_of::<T>();
            std::ptr::copy_nonoverlapping(pointer.cast::<u8>().cast_const(), values.as_mut_ptr().cast(), bytes);
            values.set_len(count);
        }
        Ok(values)
    }

    /// Puts an array at an address.
    pub fn write_array<T: Plain>(self, address: u64, values: &[T]) -> Result<(), Errno> {
        if values.is_empty() {
            return Ok(());
        }
        let pointer = pointer::<T>(address)?;
        // SAFETY: as in `write`, for as many values as the interface has room for; they are copied as bytes, because the
        // target need not be aligned. The source is a slice of ours and cannot overlap memory that only the caller knows.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), pointer.cast(), size_of_val(values)) };
        Ok(())
    }
}

fn pointer<T>(address: u64) -> Result<*mut T, Errno> {
    let address = usize::try_from(address).ok().filter(|&address| address != 0).ok_or(Errno(libc::EFAULT))?;
    Ok(std::ptr::with_exposed_provenance_mut(address))
}
